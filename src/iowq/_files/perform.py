"""Who does an operation on a file, and who is told: see operations.c and inbox.c."""

from __future__ import annotations

import asyncio
import atexit
import errno
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from .._executor.queue import WorkQueue
from .._native import lib
from .._once import once
from .._types import Operation
from .inboxes import in_trio, inbox_of

if TYPE_CHECKING:
    from .._executor.executor import QueueExecutor

P = ParamSpec("P")
T = TypeVar("T")

CURRENT_FOLDER = -100  # AT_FDCWD
EMPTY_PATH = 0x1000  # AT_EMPTY_PATH
NO_FOLLOW = 0x100  # AT_SYMLINK_NOFOLLOW

_WORKERS = 64  # as the C queue's


class FileFuture(asyncio.Future[T]):
    """A future of a loop's whose cancel ends the operation, where that is possible.

    A disk's read can't be ended: it is abandoned, and what it uses is kept until it has.
    """

    _operation: Operation[T]

    def cancel(self, msg: Any | None = None) -> bool:
        """Cancels the future; the operation may go on for a while."""
        if not super().cancel(msg):
            return False
        self._operation.cancel()
        return True


def perform(operation: Operation[T]) -> Awaitable[T]:
    """Begins an operation: in place, if that needs no wait; else a worker does it.

    Returns an awaitable, if an event loop runs on this thread; else a
    :class:`concurrent.futures.Future`.
    """
    loop = asyncio._get_running_loop()
    if loop is None:
        return perform_outside(operation)
    return operation if operation.attempt() else submit(loop, operation)


def submit(loop: asyncio.AbstractEventLoop, operation: Operation[T]) -> Awaitable[T]:
    """Has a worker do the operation, without a try."""
    if in_trio():
        return _submit_in_trio(operation)
    future: FileFuture[T] = FileFuture(loop=loop)
    future._operation = operation
    operation.submit(inbox_of(loop), future, 0)
    return future


def _submit_in_trio(operation: Operation[T]) -> Awaitable[T]:
    from .trio_run import submit

    return submit(operation)


class Completion(asyncio.Future[None]):
    """Done when an operation has completed, whatever it says: who waits for it asks it.

    To cancel it does nothing to the operation.
    """

    def set_exception(self, _error: type | BaseException, /) -> None:
        """Is done."""
        self.set_result(None)


def begin(operation: Operation[T], key: int = 0) -> Completion:
    """Has a worker do the operation, for the running event loop.

    :param key: those that have it in common are done one after the other; 0: none.
    """
    loop = asyncio.get_running_loop()
    completion = Completion(loop=loop)
    operation.submit(inbox_of(loop), completion, key)
    return completion


async def wait_for(operation: Operation[T], completion: Completion) -> None:
    """Waits until the operation, which has been begun on any loop, has completed."""
    if completion.get_loop() is asyncio.get_running_loop():
        await asyncio.shield(completion)
    elif operation.check() is None:  # the other loop may be closed
        await asyncio.wrap_future(submit_call(operation.wait))


def submit_call(fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
    """Has a worker call this, which may wait."""
    return _queue().submit(fn, *args, **kwargs)


def _begin_turn() -> Iterator[object]:
    """A loop's turn, before who awaits an operation that was done in place goes on."""
    if not in_trio():
        return iter((None,))  # as asyncio.sleep(0)
    from trio.lowlevel import checkpoint

    return checkpoint().__await__()


Operation.set_turn(_begin_turn)


def perform_outside(operation: Operation[T]) -> Awaitable[T]:
    """For who is on no loop of asyncio's, but maybe one of trio's.

    Returns a :class:`concurrent.futures.Future` outside of both: no awaitable; its user knows.
    """
    if in_trio():
        return operation if operation.attempt() else _submit_in_trio(operation)
    if not operation.attempt():
        executor: QueueExecutor = _queue()
        if stream := operation.stream():  # as io_wq_enqueue_io
            executor = executor.unbounded.hashed(stream)
        return cast("Awaitable[T]", executor.submit(operation.run))
    future: Future[T] = Future()
    try:
        future.set_result(operation.result())
    except OSError as error:
        future.set_exception(error)
    return cast("Awaitable[T]", future)


@once
def _queue() -> WorkQueue:
    """For who has no event loop: its works are futures that cancel ends."""
    return WorkQueue(_WORKERS, name="iowq-file")


def _finish() -> None:
    """At exit: what has been begun is done, as ``io`` writes what is buffered."""
    while lib.iowq_finish_operations() == -errno.EINTR:
        pass  # a signal's handler has run, and raises here what it raises


getattr(threading, "_register_atexit", atexit.register)(_finish)
