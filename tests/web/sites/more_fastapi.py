"""The example, and endpoints that make it hard."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Annotated, Any

from anyio import from_thread
from anyio.lowlevel import current_token
from fastapi import APIRouter, BackgroundTasks, Depends, Request, WebSocket
from fastapi.routing import APIRoute
from fastapi_app import app, pool, wq
from starlette.responses import StreamingResponse

import iowq.asgi
from iowq.starlette import iterate, run, runs_on

#: What has happened, by the name that the client gives.
events: dict[str, list[str]] = {}


def note(name: str, event: str) -> None:
    events.setdefault(name, []).append(event)


class OnQueue(APIRoute):
    """A route whose sync endpoint runs on the queue."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, runs_on(wq)(endpoint), **options)


router = APIRouter(route_class=OnQueue)


@router.get("/routed")
def routed(name: str) -> None:
    note(name, "begun")
    try:
        time.sleep(100)
    finally:
        note(name, "ended")


app.include_router(router)


@app.get("/calls-back")
async def calls_back() -> str:
    """An endpoint's thread may call the event loop."""
    token = current_token()

    async def answer() -> str:
        return "called back"

    return await run(wq, lambda: from_thread.run(answer, token=token))


@app.get("/events")
async def get_events(name: str) -> str:
    return ",".join(events.get(name, []))


@app.get("/swallow")
@runs_on(wq)
def swallow(name: str) -> str:
    note(name, "begun")
    try:
        time.sleep(100)
    except BaseException as error:
        note(name, type(error).__name__)
    time.sleep(0.2)  # longer than its client waits
    return "swallowed"


@app.get("/loop")
@runs_on(wq)
def loop(name: str) -> None:
    note(name, "begun")
    try:
        while True:
            pass
    finally:
        note(name, "ended")


def clean_up(name: str) -> Iterator[None]:
    try:
        yield
    except iowq.asgi.RequestEnded as error:
        note(name, type(error).__name__)
        raise
    finally:
        note(name, "cleaned")


@app.get("/depends")
@runs_on(wq)
def depends(name: str, _resource: Annotated[None, Depends(clean_up)]) -> None:
    note(name, "begun")
    try:
        time.sleep(100)
    finally:
        time.sleep(0.1)
        note(name, "ended")


@app.get("/half")
async def half(name: str) -> StreamingResponse:
    """An answer that begins, and takes long then."""

    def produce() -> Iterator[str]:
        with pool.connection():
            try:
                note(name, "begun")
                yield "x" * 100
                time.sleep(100)
            finally:
                note(name, "ended")

    return StreamingResponse(iterate(wq, produce()))


@app.get("/endless")
async def endless(name: str) -> StreamingResponse:
    """One that is mostly waiting for its client."""

    def produce() -> Iterator[bytes]:
        note(name, "begun")
        try:
            while True:
                yield bytes(100_000)
        finally:
            note(name, "ended")

    return StreamingResponse(iterate(wq, produce()))


@app.get("/background")
@runs_on(wq)
def background(name: str, tasks: BackgroundTasks) -> str:
    """Works on once the answer is complete."""

    async def go_on() -> None:
        note(name, "begun")
        await run(wq, time.sleep, 0.5)
        note(name, "ended")

    tasks.add_task(go_on)
    return "done"


@app.post("/length")
async def length(request: Request) -> int:
    """Of the body, taken piece by piece."""
    return sum([len(piece) async for piece in request.stream()])


@app.post("/total")
@runs_on(wq)
def total(numbers: list[int]) -> int:
    return sum(numbers)


app.mount("/zero", iowq.asgi.Middleware(app, timeout=0))
app.mount("/negative", iowq.asgi.Middleware(app, timeout=-1))


@app.websocket("/echo")
async def echo(websocket: WebSocket) -> None:
    await websocket.accept()
    while True:
        await websocket.send_text(await run(wq, str.upper, await websocket.receive_text()))
