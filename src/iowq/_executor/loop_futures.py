"""Futures that belong to an asyncio event loop, and the works that complete them.

Each loop has a mailbox. A work that ends is put into it, by whatever thread; the first that
comes into an empty one wakes the loop, which then completes the futures of all that are
there, in one callback. With 64 works at a time that is one wake-up for dozens of works.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from contextvars import Context
from typing import TYPE_CHECKING, Any, TypeVar

from .._work.future import OutcomeWork
from .._work.work import CANCELLED

if TYPE_CHECKING:
    from .executor import QueueExecutor

T = TypeVar("T")

#: Seconds after which a loop that was called is called again.
_PATIENCE = 0.1


class Mailbox:
    """Works that have ended, on their way to one event loop.

    Without a lock, since a worker must never wait for a thread that has lost the
    interpreter. Who puts a work appends it first, and asks then whether the loop has been
    called; the loop first notes that it hasn't, and takes works then. So none is left behind.

    A signal's handler that raises may have the loop forget that it was called, as it may any
    callback. So who puts a work calls it again if it hasn't come for a while.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop)
        self._ended: deque[LoopWork[Any]] = deque()
        self._called_at = 0.0  # time.monotonic(); 0: the loop isn't called

    def belongs_to(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether it is this loop's."""
        return self._loop() is loop

    def put(self, work: LoopWork[Any]) -> None:
        """Has the loop complete the work's future; may be repeated if it was interrupted."""
        self._ended.append(work)
        if self._called_at and time.monotonic() < self._called_at + _PATIENCE:
            return
        loop = self._loop()
        if loop is None:
            return
        try:
            self._called_at = time.monotonic()
            loop.call_soon_threadsafe(self._deliver)
        except BaseException:
            self._called_at = 0.0
            if not loop.is_closed():
                raise

    def _deliver(self) -> None:
        """On the loop: all that are there by now, and no more, so that others have their turn."""
        self._called_at = 0.0
        try:
            for _ in range(len(self._ended)):
                self._ended[0].complete()
                self._ended.popleft()
        finally:
            if self._ended and not self._called_at:
                self._called_at = time.monotonic()
                asyncio.get_running_loop().call_soon(self._deliver)


class LoopFuture(asyncio.Future[T]):
    """An :class:`asyncio.Future` whose cancel ends its work, too."""

    _work: LoopWork[T] | None = None  # until one of the two has ended

    def cancel(self, msg: Any | None = None) -> bool:
        """Cancels the future, and the work; the work may still be cleaning up after that."""
        if not super().cancel(msg):
            return False
        work, self._work = self._work, None
        queue = work._queue if work is not None else None
        if work is not None and queue is not None:
            queue.cancel(work)
        return True


class LoopWork(OutcomeWork[T]):
    """A work that completes a future of an event loop."""

    __slots__ = ("_future",)

    def __init__(
        self,
        executor: QueueExecutor,
        fn: Callable[..., T],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        context: Context,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        super().__init__(executor, fn, args, kwargs, context)
        self._shared = _mailbox_of(loop)
        self._future: LoopFuture[T] | None = LoopFuture(loop=loop)
        self._future._work = self

    @property
    def future(self) -> LoopFuture[T]:
        """The future, until it has been completed."""
        assert self._future is not None
        return self._future

    def _publish(self, state: str) -> None:
        self._state = state
        self._shared.put(self)

    def complete(self) -> None:
        """Completes the future, on its loop; may be repeated if it was interrupted."""
        future = self._future
        if future is not None and not future.done():
            future._work = None
            if self._state == CANCELLED:
                future.cancel()
            elif self._exception is not None:
                _fail(future, self._exception)
            else:
                future.set_result(self._result)  # type: ignore[arg-type]
        self._future = None


def _fail(future: LoopFuture[Any], error: BaseException) -> None:
    if type(error) is concurrent.futures.CancelledError:
        future.set_exception(asyncio.CancelledError(*error.args))
    elif isinstance(error, StopIteration):
        reason = RuntimeError("the work raised StopIteration, which a future can't")
        reason.__cause__ = error
        future.set_exception(reason)
    else:
        future.set_exception(error)


class _Latest(threading.local):
    """The mailbox that the thread used last: mostly there is one."""

    mailbox: Mailbox | None = None


_latest = _Latest()
_mailboxes: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Mailbox] = (
    weakref.WeakKeyDictionary()
)


def _mailbox_of(loop: asyncio.AbstractEventLoop) -> Mailbox:
    """Returns the mailbox of the loop, which runs on the calling thread."""
    mailbox = _latest.mailbox
    if mailbox is None or not mailbox.belongs_to(loop):
        mailbox = _mailboxes.get(loop)
        if mailbox is None:
            mailbox = _mailboxes[loop] = Mailbox(loop)
        _latest.mailbox = mailbox
    return mailbox
