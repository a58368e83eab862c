"""The interpreter's view of the workers, which are native threads."""

from __future__ import annotations

import itertools
import sys
import threading
import time
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._entrance import Entrance
    from ._queue import WorkQueue

#: No later import of this package, which the threads of this one's queues would take
#: for it, begins with numbers that this one has got to.
_tokens = itertools.count(time.monotonic_ns())
_queues: weakref.WeakValueDictionary[int, WorkQueue] = weakref.WeakValueDictionary()


def token_of(queue: WorkQueue) -> int:
    """Returns a new number under which a worker's thread finds its queue.

    A thread can start after the last work that needed it, and its queue, are
    gone, so it gets a number and not the queue's address.
    """
    token = next(_tokens)
    _queues[token] = queue
    return token


def started(name: str) -> None:
    """Called by each worker's thread before it takes work."""
    threading.current_thread().name = name
    _trace_as_threading_does()


def initialize(entrance: Entrance) -> bool:
    """Called by each worker's thread with its first work's entrance: whether it may run it."""
    return entrance._queue._initialize_worker()


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


def room(token: int) -> None:
    """Called by a thread of the queue, or one that cancels, when it isn't full any more."""
    queue = _queues.get(token)
    if queue is not None:
        queue._room.wake_first()
