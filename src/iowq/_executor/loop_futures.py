"""Futures that belong to an asyncio event loop, and the works that complete them: see loops.c."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from .._types import LoopWorkBase, Mailbox
from .._work.future import OutcomeWork
from .._work.work import CANCELLED

if TYPE_CHECKING:
    from .executor import QueueExecutor

T = TypeVar("T")


class LoopFuture(asyncio.Future[T]):
    """An :class:`asyncio.Future` whose cancel ends its work, too."""

    __slots__ = ("_work",)

    _work: LoopWork[T] | None  # until one of the two has ended

    def cancel(self, msg: Any | None = None) -> bool:
        """Cancels the future, and the work; the work may still be cleaning up after that."""
        if not super().cancel(msg):
            return False
        work, self._work = self._work, None
        queue = work._queue if work is not None else None
        if work is not None and queue is not None:
            queue.cancel(work)
        return True


class LoopWork(OutcomeWork[T], LoopWorkBase):
    """A work that completes a future of an event loop."""

    __slots__ = ()

    def _complete(self, future: LoopFuture[T]) -> None:
        """Completes the future, on its loop, if there is no result; may be repeated."""
        future._work = None
        if self._state == CANCELLED:
            future.cancel()
        else:
            assert self._exception is not None
            _fail(future, self._exception)


def _fail(future: LoopFuture[Any], error: BaseException) -> None:
    if type(error) is concurrent.futures.CancelledError:
        future.set_exception(asyncio.CancelledError(*error.args))
    elif issubclass(type(error), StopIteration):  # isinstance() would ask the error
        reason = RuntimeError("the work raised StopIteration, which a future can't")
        reason.__cause__ = error
        future.set_exception(reason)
    else:
        future.set_exception(error)


class _Latest(threading.local):
    """The mailbox that the thread used last, mostly its only one; None: it is gone."""

    find: Callable[[], Mailbox | None] = staticmethod(lambda: None)


_latest = _Latest()
_mailboxes: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Mailbox] = (
    weakref.WeakKeyDictionary()
)


def _mailbox_of(loop: asyncio.AbstractEventLoop) -> Mailbox:
    """Returns the mailbox of the loop, which runs on the calling thread."""
    mailbox = _latest.find()
    if mailbox is None or not mailbox.belongs_to(loop):
        mailbox = _mailboxes.get(loop)
        if mailbox is None:
            mailbox = _mailboxes[loop] = Mailbox(loop, LoopFuture)
        _latest.find = weakref.ref(mailbox)
    return mailbox


def make_loop_work(
    loop: asyncio.AbstractEventLoop,
    executor: QueueExecutor,
    fn: Callable[..., T],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> LoopWork[T]:
    """Returns a work for a future of the loop, which runs; not enqueued yet."""
    return LoopWork.make(loop, _mailbox_of(loop), executor, fn, *args, **kwargs)
