"""What is done once for the process, whichever thread comes first."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def once(function: Callable[[], T]) -> Callable[[], T]:
    """Returns what calls the function the first time, and returns its result each time.

    ``functools.cache`` calls it again on threads that come before the first one has ended;
    here they wait for that one. After an exception the next who comes calls it. A handler of a
    signal that comes to it from inside of it calls it, too, rather than wait for ever.
    """
    lock = threading.RLock()
    results: list[T] = []

    @functools.wraps(function)
    def call() -> T:
        if not results:
            with lock:
                if not results:
                    results.append(function())
        return results[0]

    def forget() -> None:  # who holds the lock may be a thread of the parent's
        nonlocal lock
        lock = threading.RLock()

    os.register_at_fork(after_in_child=forget)
    return call
