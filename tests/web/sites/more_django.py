"""The example, and views that make it hard."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from asgiref.sync import sync_to_async
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.db import OperationalError, connection, connections, transaction
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt
from django_app import application as example
from django_app import limit, urlpatterns

import iowq.django

#: What has happened, by the name that the client gives.
events: dict[str, list[str]] = {}


def note(request: HttpRequest, event: str) -> None:
    events.setdefault(request.GET["name"], []).append(event)


async def get_events(request: HttpRequest) -> HttpResponse:
    return HttpResponse(",".join(events.get(request.GET["name"], [])))


def swallow(request: HttpRequest) -> HttpResponse:
    note(request, "begun")
    try:
        time.sleep(100)
    except BaseException as error:
        note(request, type(error).__name__)
    time.sleep(0.2)  # longer than its client waits
    return HttpResponse("swallowed")


def loop(request: HttpRequest) -> HttpResponse:
    note(request, "begun")
    try:
        while True:
            pass
    finally:
        note(request, "ended")


def insert(request: HttpRequest) -> HttpResponse:
    """A transaction: all or nothing."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("CREATE TABLE IF NOT EXISTS rows (name text)")
        cursor.execute("INSERT INTO rows VALUES (%s)", [request.GET["name"]])
        note(request, "begun")
        cursor.execute("SELECT pg_sleep(%s)", [request.GET["seconds"]])
    return HttpResponse("done")


def count(request: HttpRequest) -> HttpResponse:
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE IF NOT EXISTS rows (name text)")
        cursor.execute("SELECT count(*) FROM rows WHERE name = %s", [request.GET["name"]])
        return HttpResponse(cursor.fetchone()[0])


async def asynchronous(request: HttpRequest) -> HttpResponse:
    """An async view that calls what blocks."""

    def query() -> str:
        with connection.cursor() as cursor:
            values = [request.GET["title"], request.GET["seconds"]]
            cursor.execute("SELECT %s, pg_sleep(%s)", values)
            return str(cursor.fetchone()[0])

    return HttpResponse(await sync_to_async(query)())


async def half(request: HttpRequest) -> StreamingHttpResponse:
    """An answer that begins, and takes long then."""

    async def produce() -> Any:
        yield b"x" * 100
        note(request, "begun")
        try:
            await sync_to_async(time.sleep)(100)
        finally:
            note(request, "ended")

    return StreamingHttpResponse(produce())


def streamed(request: HttpRequest) -> StreamingHttpResponse:
    """By a sync iterator, which Django reads to its end first."""

    def produce() -> Iterator[bytes]:
        note(request, "begun")
        try:
            time.sleep(100)
            yield b"x"
        finally:
            note(request, "ended")

    return StreamingHttpResponse(produce())


def lite(request: HttpRequest) -> None:
    """A query of SQLite's that never ends."""
    with connections["lite"].cursor() as cursor:
        note(request, "begun")
        try:
            cursor.execute(
                "WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers)"
                " SELECT max(n) FROM numbers"
            )
        except OperationalError as error:
            note(request, str(error))
            raise


@csrf_exempt  # type: ignore[untyped-decorator]
def length(request: HttpRequest) -> HttpResponse:
    return HttpResponse(len(request.body))


def threads(_request: HttpRequest) -> HttpResponse:
    return HttpResponse(sum(t.name.startswith("iowq-django") for t in threading.enumerate()))


urlpatterns += [
    path("asynchronous", asynchronous),
    path("count", count),
    path("events", get_events),
    path("half", half),
    path("insert", insert),
    path("length", length),
    path("lite", lite),
    path("loop", loop),
    path("streamed", streamed),
    path("swallow", swallow),
    path("threads", threads),
]


def sync_only(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[..., HttpResponse]:
    """A middleware of the old kind, which calls back to the event loop."""

    def middleware(request: HttpRequest) -> HttpResponse:
        request.path_info = request.path_info.removeprefix("/old")
        return get_response(request)

    return middleware


settings.DATABASES["lite"] = {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}
settings.MIDDLEWARE = ["more_django.sync_only"]
behind_sync_only = iowq.django.Middleware(get_asgi_application(), timeout=limit)


async def application(scope: Any, receive: Any, send: Any) -> None:
    is_old = scope.get("path", "").startswith("/old/")
    await (behind_sync_only if is_old else example)(scope, receive, send)
