"""For ASGI applications: what runs for a request ends when its client hangs up, or its time is up.

::

    app = iowq.asgi.Middleware(app, timeout=30)

An application is told that a client is gone only if it asks, and a sync endpoint can't. So this
middleware asks meanwhile. What :mod:`iowq.starlette` runs for the request is ended
then; :mod:`iowq.django` leaves that to Django, which listens itself. To the
application a request whose time is up looks like one whose client is gone.

It needs nothing but asyncio. Websockets and lifespan events pass through untouched.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import AsyncExitStack, contextmanager
from contextvars import ContextVar
from typing import Any

from ._arguments import check_seconds

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

__all__ = ["ClientDisconnected", "Middleware", "RequestEnded", "RequestTimeout"]

#: Messages that may complete an answer.
_LAST = ("http.response.body", "http.response.pathsend")
_LOGGER = logging.getLogger("iowq.asgi")


class RequestEnded(Exception):  # noqa: N818 - as Cancelled
    """A request has ended before it was answered, and what ran for it was ended, too."""


class ClientDisconnected(RequestEnded):
    """The client has hung up."""


class RequestTimeout(RequestEnded, TimeoutError):  # noqa: N818
    """The request's time is up."""


class Middleware:
    """Ends what runs for a request whose client has hung up, or whose time is up.

    :param timeout: seconds from the request's arrival to the end of its answer; negative counts
        as 0; None: no limit. When they are over the client gets 504 at once. If its answer
        has begun, and the application doesn't complete it, the server ends the connection.
    """

    def __init__(self, app: App, timeout: float | None = None) -> None:  # noqa: D107
        self._app = app
        self._timeout = None if timeout is None else check_seconds("timeout", timeout)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one connection."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        request = Request(receive, send)
        watch = asyncio.ensure_future(request.watch(self._timeout))
        token = _current.set(request)
        try:
            async with request.clean_up:
                await self._app(scope, request.receive, request.send)
        except Exception as error:
            request.judge(error)
        finally:
            _current.reset(token)
            if not request.timed_out:  # else the client is being told
                watch.cancel()
            await asyncio.wait([watch])
        return None


class Request:
    """One request, and what is to be ended with it."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._changed = asyncio.Event()  # something below has
        self._message: Message | None = None  # read ahead, until the application takes it
        self._ended: RequestEnded | None = None
        self._begun = False  # its answer
        self._complete = False
        self.timed_out = False  # and was answered here
        self._ends: list[Callable[[], object]] = []  # of what runs for it
        self.clean_up = AsyncExitStack()  # that is due when the application has returned

    # ---- for those who run something

    @contextmanager
    def ending(self, end: Callable[[], object]) -> Iterator[None]:
        """Has ``end()`` called, on the event loop's thread, if the request ends inside."""
        if self._ended:
            end()
        self._ends.append(end)
        try:
            yield
        finally:
            self._ends.remove(end)

    def reason(self) -> RequestEnded:
        """Why it has ended."""
        assert self._ended
        return type(self._ended)(*self._ended.args)

    # ---- for the application

    async def receive(self) -> Message:
        """Takes the message that was read ahead, or waits for the next."""
        while True:
            if self._message is not None:
                message, self._message = self._message, None
                self._set_changed()
                return message
            if self._ended or self._complete:
                return {"type": "http.disconnect"}
            await self._change()

    async def send(self, message: Message) -> None:
        """Passes on the answer, unless the client has another one by now."""
        if self.timed_out:
            return
        self._begun = True
        if message["type"] in _LAST and not message.get("more_body"):
            self._complete = True
            self._set_changed()
        await self._send(message)

    # ---- for the middleware

    async def watch(self, timeout: float | None) -> None:
        """Waits for the end of the request, and tells it.

        Servers say that a client is gone, too, once the answer is complete: then that ends
        nothing, as tasks in the background may still run.
        """
        try:
            await asyncio.wait_for(self._read_ahead(), timeout)
            ended: RequestEnded = ClientDisconnected("the client has hung up")
        except asyncio.TimeoutError:  # another one than TimeoutError in 3.10
            ended = RequestTimeout(f"not answered in {timeout:g} s")
        if self._complete:
            return
        self._end(ended)
        if isinstance(ended, RequestTimeout) and not self._begun:
            self.timed_out = True
            await self._answer_504()

    async def _read_ahead(self) -> None:
        """Returns when the client is gone, or the answer is complete.

        It reads one message ahead, so that a body too big for memory stays with the
        server; that a client is gone is noticed when the application has taken all but the last.
        """
        while not self._complete:
            if self._message is not None and self._message.get("more_body"):
                await self._change()
                continue
            message = await self._receive()
            if message["type"] == "http.disconnect":
                return
            self._message = message
            self._set_changed()

    def _end(self, ended: RequestEnded) -> None:
        self._ended = ended
        for end in [*self._ends]:
            end()
        self._set_changed()

    async def _answer_504(self) -> None:
        body = b"Gateway Timeout"
        headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
        await self._send({"type": "http.response.start", "status": 504, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})

    def judge(self, error: Exception) -> None:
        """Raises what the application has raised, unless that was but the request's end."""
        if not self._ended:
            raise error
        if isinstance(error, RequestEnded):
            return
        if not self.timed_out:
            raise error
        _LOGGER.error("after its time was up, a request raised", exc_info=error)

    def _set_changed(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _change(self) -> None:
        await self._changed.wait()


_current: ContextVar[Request | None] = ContextVar("iowq's request", default=None)


def current_request() -> Request | None:
    """Returns the request that the calling task serves; None outside of the middleware."""
    return _current.get()
