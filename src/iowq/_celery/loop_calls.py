"""Calls that the pool's workers leave for the thread of the Celery worker's event loop."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kombu.asynchronous.hub import Hub
    from kombu.asynchronous.timer import Entry


class LoopCalls:
    """Makes calls on the event loop's thread, in the order in which they come.

    A request's callbacks expect to be called there, one at a time, as prefork does it. With
    a broker for which Celery has no event loop each is made at once, by the worker.
    """

    def __init__(self) -> None:
        self.hub: Hub | None = None
        self._calls: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._is_told = False  # the loop: it will make all calls that were left before

    def leave(self, fn: Callable[..., object], *args: Any) -> None:
        """Has ``fn(*args)`` called, now or soon."""
        hub = self.hub
        if hub is None:
            fn(*args)
            return
        self._calls.append((fn, args))
        if not self._is_told:
            self._is_told = True
            hub.call_soon(self.make)

    def call_later(self, seconds: float, fn: Callable[[], object]) -> Entry | None:
        """Has ``fn()`` called after that time, unless what this returns is cancelled.

        Without an event loop nothing is called.
        """
        return None if self.hub is None else self.hub.call_later(seconds, fn)

    def make(self) -> None:
        """Makes the calls that were left; by the loop's thread."""
        self._is_told = False  # who comes from here on may find that nobody looks any more
        try:
            while self._calls:
                fn, args = self._calls.popleft()
                fn(*args)
        finally:
            if self._calls and self.hub is not None:  # one has raised
                self._is_told = True
                self.hub.call_soon(self.make)
