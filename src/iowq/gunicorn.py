"""For gunicorn: a worker class that ends requests, not processes.

::

    gunicorn --worker-class iowq.gunicorn.Worker --threads 32 --timeout 30 app:app

``ThreadWorker`` (``gthread``) on a queue. ``--timeout`` is to it what it is to sync workers: the
time that a request may take. But when that is over, the request is ended wherever it blocks or
computes, its clean-up runs, and the client gets 504; the process, and its other requests, go on. A
request whose client hangs up is ended, too.

Only the application is ended, never gunicorn's own code.
"""

from __future__ import annotations

import contextlib
import select
import selectors
import sys
import time
from collections.abc import Iterable, Iterator
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from gunicorn.workers.gthread import ThreadWorker

from ._cancel.inside import current_work
from ._cancel.scopes import shield, timeout
from ._executor.queue import WorkQueue
from ._native import lib

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    from ._work.work import Work

__all__ = ["Worker"]


class Worker(ThreadWorker):
    """A ``ThreadWorker`` whose pool is a :class:`iowq.WorkQueue`."""

    tpool: WorkQueue
    wsgi: Any

    def get_thread_pool(self) -> WorkQueue:
        """Returns the queue that runs requests."""
        self._hangups = select.epoll()
        self._served: dict[int, Work] = {}  # by the connection's file descriptor
        return WorkQueue(self.cfg.threads, "gunicorn")

    def load_wsgi(self) -> None:
        """Has each request run within its time."""
        super().load_wsgi()
        self.wsgi = _limited(self.wsgi, self.cfg.timeout)

    def run(self) -> None:
        """Runs until the worker is to stop, and ends what has outlived ``--graceful-timeout``."""
        self.poller.register(self._hangups, selectors.EVENT_READ, self._end_abandoned)
        super().run()
        self.tpool.cancel_all()

    def handle_quit(self, sig: int, frame: FrameType | None) -> None:
        """Stops at once: the exit of the process would wait for what runs."""
        self.tpool.cancel_all()
        super().handle_quit(sig, frame)

    def wait_for_and_dispatch_events(self, timeout: float | None) -> None:
        """Comes back early enough to tell the arbiter that the process lives."""
        assert timeout is not None
        super().wait_for_and_dispatch_events(min(timeout, self.cfg.timeout / 4 or timeout))

    def handle(self, conn: Any) -> Any:
        """Serves one request of a connection, on a worker of the queue."""
        with shield(), self._watched(conn.sock.fileno()):
            return super().handle(conn)

    @contextlib.contextmanager
    def _watched(self, fd: int) -> Iterator[None]:
        """Has the work ended if the client closes its connection, or its sending side."""
        work = current_work()
        assert work
        self._served[fd] = work
        self._hangups.register(fd, select.EPOLLRDHUP | select.EPOLLONESHOT)
        try:
            yield
        finally:
            del self._served[fd]
            with contextlib.suppress(OSError):  # it has been closed
                self._hangups.unregister(fd)

    def _end_abandoned(self, _hangups: select.epoll) -> None:
        """Called on the main thread when clients have hung up.

        It alone closes and accepts connections, so no number is another's by now.
        """
        for fd, _events in self._hangups.poll(0):
            work = self._served.get(fd)
            if work is not None:
                self.tpool.cancel(work)


def _limited(app: WSGIApplication, seconds: float) -> WSGIApplication:
    """Returns the application with a limit for each request; 0: none."""

    def limited(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        part = _ApplicationsPart(seconds)
        try:
            with part:
                body = app(environ, start_response)
        except TimeoutError:
            if not part.is_over():
                raise
            start_response("504 Gateway Timeout", [("Content-Type", "text/plain")], sys.exc_info())
            return [b"Gateway Timeout"]
        if not isinstance(body, environ["wsgi.file_wrapper"]):
            part.extend()
            body = _Body(body, part)
        return body

    return limited


#: Seconds that an answer has which the application has made at the last moment, or later: as
#: after an interruption.
_GRACE = 1.0


class _ApplicationsPart:
    """What of a request may be ended: what is inside of this."""

    def __init__(self, seconds: float) -> None:
        self._deadline = time.monotonic() + seconds if seconds else float("inf")

    def is_over(self) -> bool:
        return time.monotonic() >= self._deadline

    def extend(self) -> None:
        self._deadline = max(self._deadline, time.monotonic() + _GRACE)

    def __enter__(self) -> None:
        self._timeout = timeout(max(self._deadline - time.monotonic(), _GRACE))
        self._timeout.__enter__()
        lib.io_wq_worker_unshield()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        lib.io_wq_worker_shield()
        self._timeout.__exit__(kind, error, traceback)


class _Body:
    """An answer's body, each step of which is the application's part."""

    def __init__(self, body: Iterable[bytes], part: _ApplicationsPart) -> None:
        self._body = body
        self._iterator = iter(body)
        self._part = part
        self._begun = False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        with self._part:
            piece = next(self._iterator)
        if self._begun and self._part.is_over():
            raise TimeoutError("the request's time is up, and its answer isn't complete")
        self._begun = True
        return piece

    def close(self) -> None:
        """Clean-up, which nothing ends."""
        close = getattr(self._body, "close", None)
        if close is not None:
            close()
