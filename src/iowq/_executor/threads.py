"""The interpreter's view of the workers, which are native threads: what these call."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING

from .registry import find

if TYPE_CHECKING:
    from .executor import QueueExecutor


def started(name: str) -> None:
    """Called by each worker's thread before it takes work."""
    threading.current_thread().name = name
    _trace_as_threading_does()


def initialize(executor: QueueExecutor) -> bool:
    """Called by each worker's thread with its first work's executor: whether it may run it."""
    return executor._queue._initialize_worker()


def _trace_as_threading_does() -> None:
    """For coverage and debuggers: native threads don't go through ``Thread``'s start."""
    trace, profile = threading.gettrace(), threading.getprofile()
    if trace is not None:
        sys.settrace(trace)
    if profile is not None:
        sys.setprofile(profile)


def ended() -> None:
    """Called by each worker's thread before it ends.

    ``threading`` keeps its record of a native thread for ever up to 3.12, and
    would give it, with its name, to a later thread that got the same number.
    """
    if sys.version_info < (3, 13):
        with threading._active_limbo_lock:  # type: ignore[attr-defined]
            threading._active.pop(threading.get_ident(), None)  # type: ignore[attr-defined]


def admit(token: int) -> None:
    """Called by a thread of the queue, or one that cancels, when it isn't full any more."""
    queue = find(token)
    if queue is not None:
        queue._admission.wake_first()
