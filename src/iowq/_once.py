"""What is done once for the process, whichever thread comes first."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

#: One for all, so that those that need each other can't wait for each other. A handler of a signal
#: that comes to one from inside of it calls it, too, rather than wait for itself.
_lock = threading.RLock()


def once(function: Callable[[], T]) -> Callable[[], T]:
    """Returns what calls the function the first time, and returns its result each time.

    ``functools.cache`` calls it again on threads that come before the first one has ended;
    here they wait for that one. After an exception the next who comes calls it.
    """
    results: list[T] = []

    @functools.wraps(function)
    def call() -> T:
        if not results:
            with _lock:
                if not results:
                    results.append(function())
        return results[0]

    return call


def _forget() -> None:  # who holds the lock may be a thread of the parent's
    global _lock
    _lock = threading.RLock()


os.register_at_fork(after_in_child=_forget)
