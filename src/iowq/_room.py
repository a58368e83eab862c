"""Backpressure: those who wait until a full queue takes more work.

The core refuses work when the queue is full (``max_pending``), and after that calls
its hook once when there is room again. The hook wakes the first who waits; whoever
has got its work in, or gives up, wakes the next. So one at a time tries, in the order
in which they came, and each refusal is followed by another call of the hook.
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

if TYPE_CHECKING:
    from ._entrance import Entrance
    from ._future import Future

#: Enqueues, or says why not: 0 or a negative errno.
Offer = Callable[[], int]
#: Has somebody try again; False if nobody is there any more. Called on any thread.
Wake = Callable[[], bool]

#: Seconds after which whoever waits tries again by itself: somebody who was woken before
#: it may be an event loop that stands still.
PATIENCE = 1.0


class Room:
    """Those who wait for room in one queue."""

    def __init__(self) -> None:
        self._waiting: deque[Wake] = deque()

    def wake_first(self) -> None:
        """Takes the first who waits out of the line, and has it try again."""
        with suppress(IndexError):
            while not self._waiting.popleft()():
                pass

    @contextmanager
    def in_line(self, wake: Wake) -> Iterator[Callable[[], None]]:
        """While the caller waits. Gives what it calls once it was woken: to be first again."""
        try:
            self._waiting.append(wake)
            yield lambda: self._waiting.appendleft(wake)
        finally:
            with suppress(ValueError):
                self._waiting.remove(wake)
            self.wake_first()

    def wait(self, offer: Offer, timeout: float | None) -> int:
        """Offers until the queue isn't full. Returns the last answer.

        :param timeout: seconds; 0: doesn't wait. None: no limit.
        """
        if timeout == 0:
            return -errno.EBUSY
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        woken = threading.Event()

        def wake() -> bool:
            woken.set()
            return True

        with self.in_line(wake) as come_back:
            while True:
                error = offer()  # a refusal brings a wake-up, for whoever is in line by now
                left = deadline - time.monotonic()
                if error != -errno.EBUSY or left <= 0:
                    return error
                if woken.wait(min(left, PATIENCE)):
                    woken.clear()
                    come_back()

    async def wait_async(
        self,
        offer: Offer,
        timeout: float | None,
        wake: Wake,
        woken_within: Callable[[float], Awaitable[bool]],
    ) -> int:
        """As :meth:`wait`, by an event loop's means, which it doesn't block.

        :param woken_within: waits so many seconds for wake() to be called, and forgets it.
        """
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        with self.in_line(wake) as come_back:
            while True:
                error = offer()
                left = deadline - time.monotonic()
                if error != -errno.EBUSY or left <= 0:
                    return error
                if await woken_within(min(left, PATIENCE)):
                    come_back()


#: :meth:`Room.wait_async` with one kind of event loop's means.
AsyncWait = Callable[[Room, Offer, "float | None"], Awaitable[int]]


async def enqueue(executor: Entrance, future: Future[Any], wait: AsyncWait) -> None:
    """Enqueues a work, once the queue takes it; or raises."""
    queue = executor._queue
    offer = functools.partial(executor._offer, future, executor._key)
    error = offer()
    if error == -errno.EBUSY and queue._full_timeout != 0:
        try:
            error = await wait(queue._room, offer, queue._full_timeout)
        except BaseException:  # each event loop has its own kind of cancel
            if not future._is_taken():
                queue._give_up(future)
            raise
    if error:
        queue._refused(future, error)
