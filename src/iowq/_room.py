"""Backpressure: those who wait until a full queue takes more work.

The core refuses work when the queue is full (``max_pending``), and after that calls
its hook once when there is room again. The hook wakes the first who waits; whoever
has got its work in, or gives up, wakes the next. So one at a time tries, in the order
in which they came, and each refusal is followed by another call of the hook. Whoever
comes while others wait is refused by the core, even if there is room, and waits behind
them.
"""

from __future__ import annotations

import errno
import functools
import math
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from ._native import lib

if TYPE_CHECKING:
    from ._entrance import Entrance
    from ._future import Future
    from ._work import Work

#: Enqueues, or says why not: 0 or a negative errno.
Offer = Callable[[], int]
#: Has somebody try again; False if nobody is there any more. Called on any thread.
Wake = Callable[[], bool]

#: Seconds after which whoever waits tries again by itself: somebody who was woken before
#: it may be an event loop that stands still.
PATIENCE = 1.0


class Room:
    """Those who wait for room in one queue, in the order in which they came."""

    def __init__(self, wq: Any) -> None:
        self._wq = wq
        self._line: deque[Wake] = deque()

    def wake_first(self) -> None:
        """Has the first who waits, and is still there, try."""
        with suppress(IndexError):  # another thread may leave the line meanwhile
            while not (first := self._line[0])():
                with suppress(ValueError):
                    self._line.remove(first)

    @contextmanager
    def _in_line(self, wake: Wake) -> Iterator[None]:
        try:
            self._line.append(wake)
            self._tell()
            yield
        finally:
            with suppress(ValueError):
                self._line.remove(wake)
            self._tell()
            self.wake_first()

    def _tell(self) -> None:
        """Tells the core how many wait: all, so that a call that was interrupted is made good."""
        lib.io_wq_room_line(self._wq, len(self._line))

    def _try(self, work: Work, offer: Offer, wake: Wake, is_overdue: bool) -> int:
        """Offers a work if it is its turn, or those before it have let it wait for too long."""
        if not is_overdue and self._line[0] is not wake:
            return -errno.EBUSY
        memory: Any = work._memory
        memory.waited = 1
        return offer()  # a refusal brings a wake-up for the first in line

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
            with self._in_line(wake):
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
        with self._in_line(wake):
            while True:
                error = self._try(work, offer, wake, is_overdue)
                left = deadline - time.monotonic()
                if error != -errno.EBUSY or left <= 0:
                    return error
                is_overdue = not await woken_within(min(left, PATIENCE))


#: :meth:`Room.wait_async` with one kind of event loop's means.
AsyncWait = Callable[[Room, "Work", Offer, "float | None"], Awaitable[int]]


async def enqueue(executor: Entrance, future: Future[Any], wait: AsyncWait) -> None:
    """Enqueues a work, once the queue takes it; or raises."""
    queue = executor._queue
    offer = functools.partial(executor._offer, future, executor._key)
    error = offer()
    if error == -errno.EBUSY and queue._full_timeout != 0:
        try:
            error = await wait(queue._room, future, offer, queue._full_timeout)
        except BaseException:  # each event loop has its own kind of cancel
            if not future._is_taken():
                queue._give_up(future)
            raise
    if error:
        queue._refused(future, error)
