"""Futures: works that keep what their callable returns or raises."""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, CancelledError, InvalidStateError
from concurrent.futures import Future as BaseFuture
from concurrent.futures import TimeoutError as FutureTimeoutError  # another one in 3.10
from contextlib import contextmanager
from typing import Any, Generic, NamedTuple, NoReturn, TypeVar

from .._native import ffi, lib
from .._types import FutureBase
from .work import CANCELLED, ENDED, FINISHED, Work, is_main_thread

T = TypeVar("T")

#: Where ``concurrent.futures`` reports callbacks that raise.
LOGGER = logging.getLogger("concurrent.futures")


@contextmanager
def awaiting(begun: int, awaited: object) -> Iterator[None]:
    """What a work does that waits for others of its queue: see ``io_wq_worker_await``.

    :param begun: what that has returned.
    :raises RuntimeError: if the wait would never end.
    """
    if begun == -errno.EDEADLK:
        raise RuntimeError(f"this work would wait for itself: {awaited!r} has its key")
    if begun < 0:
        reason = os.strerror(-begun)
        raise RuntimeError(
            f"no worker can be started for {awaited!r}, which is waited for: {reason}"
        )
    try:
        yield
    finally:
        if begun:
            lib.io_wq_worker_await_end()


class _AwaitingEvent(threading.Event):
    """Waits as a work does that waits for others of its queue."""

    def __init__(self, wq: Any) -> None:
        super().__init__()
        self._wq = wq

    def wait(self, timeout: float | None = None) -> bool:
        with awaiting(lib.io_wq_worker_await(self._wq, ffi.NULL), "a work"):
            return super().wait(timeout)


class _Waiters(list[Any]):
    """Waiters of :func:`concurrent.futures.wait` and ``as_completed``, which append to it.

    They do so before they wait for their event, with all their futures' locks held.
    """

    def __init__(self, wq: Any) -> None:
        super().__init__()
        self._wq = wq

    def append(self, waiter: Any) -> None:
        if self._wq is not None and not isinstance(waiter.event, _AwaitingEvent):
            waiter.event = _AwaitingEvent(self._wq)
        super().append(waiter)


class _Shared(NamedTuple):
    """What a future needs once somebody waits for it."""

    lock: threading.RLock
    """The condition's. Its own ``with``, unlike the condition's, leaves no instant at which
    a signal's handler can raise and leave it locked."""
    condition: Any
    """A Condition; if the future had ended before, the lock: nobody will wait."""
    waiters: _Waiters
    untold: list[Any]
    """Those of the waiters that are still to be told of the end."""
    callbacks: list[Callable[[Any], object]]


class OutcomeWork(Work, Generic[T]):
    """A work that keeps its callable's outcome, and tells somebody of its end."""

    __slots__ = ()

    def __init__(self, *call: Any) -> None:
        super().__init__(*call)
        self._keeps_outcome = True

    def _drop(self) -> str:
        queue = self._queue
        if queue is not None and queue._broken:
            self._exception = queue._broken_error()
        return FINISHED if isinstance(self._exception, BrokenExecutor) else CANCELLED

    def _publish(self, state: str) -> None:
        """Ends the work in state, since somebody waits for that; called again if interrupted."""
        raise NotImplementedError


class Future(OutcomeWork[T], FutureBase[T], BaseFuture[T]):
    """A :class:`concurrent.futures.Future` that is the work itself.

    Most futures are done when they are asked, and nobody waits for them. So one is made
    without the condition and the lists that take longer than the rest of a work. The
    first who needs them makes them (``_share``); from then on the state changes with
    the condition's lock held, as those who wait expect. Until then it is changed by
    one step of the binding, which checks whether the future is shared.
    """

    __slots__ = ()

    # ---- the base class' names, for its methods and for concurrent.futures

    def _share(self) -> _Shared:
        ended = self._state in ENDED
        if self._shared is None:
            lock = threading.RLock()
            condition = lock if ended else threading.Condition(lock)
            queue = self._queue
            wq = None if queue is None else queue._wq
            shared = _Shared(lock, condition, _Waiters(wq), [], [])
            lib.iowq_share(id(self), id(shared))
        return self._shared  # type: ignore[no-any-return]  # maybe another thread's

    # Typed as what they are to concurrent.futures' functions: attributes.
    _condition: threading.Condition = property(lambda self: self._share().condition)  # type: ignore[assignment]
    _waiters: list[Any] = property(lambda self: self._share().waiters)  # type: ignore[assignment]
    _done_callbacks: list[Any] = property(lambda self: self._share().callbacks)  # type: ignore[assignment]

    # ---- asked by its owner

    def _wait_for_result(self, timeout: float | None) -> T:
        """What ``result`` does, but for a future that is done and has not failed."""
        if self._state != FINISHED:
            self._wait(timeout)
        if self._exception is None:
            return self._result  # type: ignore[no-any-return]
        try:
            raise self._exception
        finally:
            del self  # which keeps the exception, whose traceback keeps this frame

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Returns what the callable raised, or None; waits and raises as :meth:`result`."""
        if self._state != FINISHED:
            self._wait(timeout)
        return self._exception

    def cancel(self) -> bool:
        """Cancels the work if it is pending; if it runs, has it ended.

        Returns whether it is cancelled now. So False for running work, which may finish
        all the same, or end as cancelled: wait to learn which.
        """
        queue = self._queue
        if queue is not None:
            queue.cancel(self)
        return self.cancelled()

    def add_done_callback(self, fn: Callable[[Any], object]) -> None:
        """Calls ``fn(future)`` when the work has ended, on the thread that ends it.

        At once, if it has ended. What it raises is logged. Callbacks are called in the
        order in which they were added, each once.
        """
        shared = self._share()
        with shared.lock:
            if self._state not in ENDED:
                shared.callbacks.append(fn)
                return
        _call(fn, self)

    def _wait(self, timeout: float | None) -> None:
        """Waits until the callable has returned or raised."""
        if timeout != 0:
            lib.iowq_watch(id(self))  # most are about to
        if self._state not in ENDED:
            shared = self._share()
            with shared.lock:
                if self._state not in ENDED:
                    with awaiting(lib.iowq_await(id(self)), self):
                        if not shared.condition.wait(timeout):
                            raise FutureTimeoutError
        if self._state == CANCELLED:
            reason: BaseException | None = self._exception
            if reason is None:
                raise CancelledError
            raise CancelledError(*reason.args) from reason.__cause__

    # ---- its end

    def _publish(self, state: str) -> None:
        """Cancel doesn't reach the callbacks: the work is over."""
        lib.io_wq_worker_shield()
        try:
            _tell_waiters(self, self._shared, state)
            _call_callbacks(self, self._shared.callbacks)
        finally:
            lib.io_wq_worker_unshield()

    def _refuse(self) -> NoReturn:
        raise InvalidStateError(f"its queue alone sets the outcome of {self!r}")

    def set_result(self, _result: object) -> NoReturn:
        """Raises ``InvalidStateError``: the work's outcome is its callable's."""
        self._refuse()

    def set_exception(self, _exception: object) -> NoReturn:
        """Raises ``InvalidStateError``: the work's outcome is its callable's."""
        self._refuse()

    def set_running_or_notify_cancel(self) -> NoReturn:
        """Raises ``InvalidStateError``: the queue starts and ends the work."""
        self._refuse()


def publish(work: OutcomeWork[Any], state: str) -> None:
    """Ends a work that is shared, in state; called again if interrupted."""
    work._publish(state)


def _tell_waiters(future: Future[Any], shared: _Shared, state: str) -> None:
    with shared.lock:
        if future._state != state:
            shared.untold[:] = shared.waiters
            future._state = state
        while shared.untold:
            waiter = shared.untold[0]
            if state == CANCELLED:
                waiter.add_cancelled(future)
            elif future._exception is not None:
                waiter.add_exception(future)
            else:
                waiter.add_result(future)
            del shared.untold[0]
        shared.condition.notify_all()


def _call_callbacks(future: Future[Any], callbacks: list[Callable[[Any], object]]) -> None:
    errors: list[BaseException] = []
    while callbacks:
        lib.iowq_call_first(id(callbacks), id(future), id(errors))
        if errors:
            _report(errors.pop(), future)


def _call(callback: Callable[[Any], object], future: Future[Any]) -> None:
    try:
        callback(future)
    except BaseException as error:
        _report(error, future)


def _report(error: BaseException, future: Future[Any]) -> None:
    """Reports what a callback has raised."""
    try:
        if not isinstance(error, Exception) and is_main_thread():
            raise error  # Ctrl-C, most likely
        LOGGER.error("exception calling callback for %r", future, exc_info=error)
    finally:
        del error  # whose traceback keeps this frame
