"""The example, and views that make it hard."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

from flask import Response, g, request, send_file, stream_with_context
from flask_app import app

#: What has happened, by the name that the client gives.
events: dict[str, list[str]] = {}


def note(event: str) -> None:
    events.setdefault(g.name, []).append(event)


@app.before_request
def set_name() -> None:
    g.name = request.args.get("name", "")


@app.teardown_request
def tear_down(_error: BaseException | None) -> None:
    if request.endpoint != "get_events":
        note("torn down")


@app.get("/events")
def get_events() -> str:
    return ",".join(events.get(g.name, []))


@app.get("/process")
def process() -> str:
    return str(os.getpid())


@app.get("/swallow")
def swallow() -> str:
    note("begun")
    try:
        time.sleep(100)
    except BaseException as error:
        note(type(error).__name__)
    time.sleep(0.2)  # longer than its client waits
    return "swallowed"


@app.get("/late")
def late() -> str:
    """Takes all the time that there is for clean-up, and a bit more."""
    try:
        time.sleep(100)
    finally:
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            pass
        return "late"  # noqa: B012


@app.get("/endless")
def endless() -> Response:
    """Pieces that come fast enough."""

    def produce() -> Iterator[bytes]:
        note("begun")
        try:
            while True:
                time.sleep(0.01)
                yield bytes(1000)
        finally:
            note("ended")

    return Response(stream_with_context(produce()))


@app.get("/loop")
def loop() -> str:
    note("begun")
    try:
        while True:
            pass
    finally:
        note("ended")


@app.get("/half")
def half() -> Response:
    """An answer that begins, and takes long then."""

    def produce() -> Iterator[str]:
        try:
            yield "x" * 100
            note("begun")
            time.sleep(100)
        finally:
            note("ended")

    return Response(stream_with_context(produce()))


@app.get("/file")
def file() -> Response:
    return send_file(__file__)


@app.post("/length")
def length() -> str:
    return str(len(request.get_data()))
