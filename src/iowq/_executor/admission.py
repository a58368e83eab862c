"""Backpressure: who waits until a full queue takes more work.

The core refuses work when the queue is full (``max_pending``), and after that calls
its hook once when it would take some again. The hook wakes the first who waits; whoever
has got its work in, or gives up, wakes the next. So one at a time tries, in the order
in which they came, and each refusal is followed by another call of the hook. Whoever
comes while others wait is refused by the core, even if it would take work, and waits behind
them.
"""

from __future__ import annotations

import errno
import math
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from .._cancel.waits import may_be_ended
from .._native import lib

if TYPE_CHECKING:
    from .._work.work import Work
    from .executor import QueueExecutor

#: Enqueues a work, or says why not: 0 or a negative errno.
Offer = Callable[["Work"], int]
#: Has somebody try again; False if nobody is there any more. Called on any thread.
Wake = Callable[[], bool]

#: Seconds after which whoever waits tries again by itself: somebody who was woken before
#: it may be an event loop that stands still.
PATIENCE = 1.0


class Admission:
    """Those who wait until one queue takes their work, in the order in which they came."""

    def __init__(self, wq: Any) -> None:
        self._wq = wq
        self._waiters: deque[Wake] = deque()

    def wake_first(self) -> None:
        """Has the first who waits, and is still there, try."""
        with suppress(IndexError):  # another thread may leave meanwhile
            while not (first := self._waiters[0])():
                with suppress(ValueError):
                    self._waiters.remove(first)

    @contextmanager
    def _waiting(self, wake: Wake) -> Iterator[None]:
        try:
            self._waiters.append(wake)
            self._tell_core()
            yield
        finally:
            with suppress(ValueError):
                self._waiters.remove(wake)
            self._tell_core()
            self.wake_first()

    def _tell_core(self) -> None:
        """Tells the core how many wait: all, so that a call that was interrupted is made good."""
        lib.io_wq_set_waiters(self._wq, len(self._waiters))

    def _try(self, work: Work, offer: Offer, wake: Wake, is_overdue: bool) -> int:
        """Offers a work if it is its turn, or those before it have let it wait for too long."""
        if not is_overdue and self._waiters[0] is not wake:
            return -errno.EBUSY
        work._waited = True
        return offer(work)  # a refusal brings a wake-up for the first who waits

    @may_be_ended
    def wait(self, work: Work, offer: Offer, timeout: float | None) -> int:
        """Offers a work until the queue isn't full. Returns the last answer.

        :param timeout: seconds; 0: doesn't wait. None: no limit.
        """
        if timeout == 0:
            return -errno.EBUSY
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        woken = threading.Lock()  # not an Event, whose lock a signal's handler could leave held
        woken.acquire()
        is_gone = is_overdue = False

        def wake() -> bool:
            with suppress(RuntimeError):  # it is woken already
                woken.release()
            return not is_gone

        try:
            with self._waiting(wake):
                while True:
                    error = self._try(work, offer, wake, is_overdue)
                    left = deadline - time.monotonic()
                    if error != -errno.EBUSY or left <= 0:
                        return error
                    is_overdue = not woken.acquire(timeout=min(left, PATIENCE))
        finally:
            is_gone = True

    async def wait_async(
        self,
        work: Work,
        offer: Offer,
        timeout: float | None,
        wake: Wake,
        woken_within: Callable[[float], Awaitable[bool]],
    ) -> int:
        """As :meth:`wait`, by an event loop's means, which it doesn't block.

        :param woken_within: waits so many seconds for wake() to be called, and forgets it.
        """
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        is_overdue = False
        with self._waiting(wake):
            while True:
                error = self._try(work, offer, wake, is_overdue)
                left = deadline - time.monotonic()
                if error != -errno.EBUSY or left <= 0:
                    return error
                is_overdue = not await woken_within(min(left, PATIENCE))


#: :meth:`Admission.wait_async` with one kind of event loop's means.
AsyncWait = Callable[[Admission, "Work", Offer, "float | None"], Awaitable[int]]


async def enqueue(executor: QueueExecutor, work: Work, wait: AsyncWait) -> None:
    """Enqueues a work, once the queue takes it; or raises."""
    error = executor._offer(work)
    if error:
        await not_taken(executor, work, error, wait)


async def not_taken(executor: QueueExecutor, work: Work, error: int, wait: AsyncWait) -> None:
    """Waits, if the queue was full, until it takes the work; or raises."""
    queue = executor._queue
    if error == -errno.EBUSY and queue._full_timeout != 0:
        try:
            error = await wait(queue._admission, work, executor._offer, queue._full_timeout)
        except BaseException:  # each event loop has its own kind of cancel
            if not work._taken:
                queue._give_up(work)
            raise
    if error:
        queue._refused(work, error)
