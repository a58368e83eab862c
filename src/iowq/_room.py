"""Backpressure: those who wait until a full queue takes more work.

The core refuses work when the queue is full (``max_pending``), and after that calls
its hook once when there is room again. The hook wakes the first who waits; whoever
has got its work in, or gives up, wakes the next. So one at a time tries, in the order
in which they came, and each refusal is followed by another call of the hook.
"""

from __future__ import annotations

import errno
import functools
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
#: Called on any thread.
Wake = Callable[[], None]


class Room:
    """Those who wait for room in one queue."""

    def __init__(self) -> None:
        self._waiting: deque[Wake] = deque()

    def wake_first(self) -> None:
        """Has the first who waits try again."""
        while True:
            try:
                wake = self._waiting[0]
            except IndexError:
                return
            try:
                wake()
            except RuntimeError:  # its event loop is closed
                self._remove(wake)
            else:
                return

    def _remove(self, wake: Wake) -> None:
        with suppress(ValueError):
            self._waiting.remove(wake)

    @contextmanager
    def in_line(self, wake: Wake) -> Iterator[None]:
        """While the caller waits: wake() is to have it try again."""
        try:
            self._waiting.append(wake)
            yield
        finally:
            self._remove(wake)
            self.wake_first()

    def wait(self, offer: Offer, timeout: float | None) -> int:
        """Offers until the queue isn't full. Returns the last answer.

        :param timeout: seconds; 0: doesn't wait. None: no limit.
        """
        if timeout == 0:
            return -errno.EBUSY
        deadline = None if timeout is None else time.monotonic() + timeout
        woken = threading.Event()
        with self.in_line(woken.set):
            while True:
                woken.clear()  # a refusal after this brings a wake-up
                error = offer()
                left = None if deadline is None else deadline - time.monotonic()
                if error != -errno.EBUSY or (left is not None and left <= 0):
                    return error
                woken.wait(left)


#: :meth:`Room.wait` for an event loop, which it doesn't block.
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
            queue._give_up(future)
            raise
    if error:
        queue._refused(future, error)
