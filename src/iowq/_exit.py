"""What becomes of queues when the interpreter exits, and when the process forks."""

from __future__ import annotations

import atexit
import os
import threading
import time
import weakref
from typing import TYPE_CHECKING

from . import _monitor, _notice
from ._native import lib

if TYPE_CHECKING:
    from ._queue import WorkQueue

#: By address: queues may be equal to each other, if a subclass says so.
_queues: weakref.WeakValueDictionary[int, WorkQueue] = weakref.WeakValueDictionary()
_exiting = False
_CLEAN_UP = 1.0  # seconds for what is interrupted at exit


def register(queue: WorkQueue) -> None:
    """Has the queue closed at exit, and emptied in a forked child.

    :raises RuntimeError: if that is over.
    """
    _queues[id(queue)] = queue
    if _exiting:  # asked when it is there: who exits looks in the other order
        raise RuntimeError("can't create a queue: the interpreter exits")


def queues() -> list[WorkQueue]:
    """Returns the queues that are alive."""
    # to iterate over the values would fail if others come meanwhile
    return [queue for ref in _queues.valuerefs() if (queue := ref()) is not None]


def _close_all() -> None:
    """Waits for all work, as ``concurrent.futures`` does.

    Ctrl-C ends the wait: pending work is cancelled, running work is interrupted, and has a
    second for its clean-up, since a thread that the exit meets inside of the interpreter may
    hold what the exit needs; then the process exits without waiting for it. There are no
    new queues from here on, as there is no new work in a ``ThreadPoolExecutor``.
    """
    global _exiting
    _exiting = True
    try:
        for queue in queues():
            queue.close()
    except BaseException:
        for queue in queues():
            queue.cancel_all()
        end = time.monotonic() + _CLEAN_UP
        for queue in queues():
            lib.io_wq_exit_start(queue._wq)
            lib.iowq_stop(queue._wq, max(0, int((end - time.monotonic()) * 1000)))
        raise


def _after_fork_in_child() -> None:
    lib.iowq_after_fork()
    _monitor.after_fork()
    _notice.after_fork()
    for queue in queues():
        queue._after_fork()


# concurrent.futures' own place: before atexit's callbacks, while threads can
# still be started. Private, so fall back to atexit.
getattr(threading, "_register_atexit", atexit.register)(_close_all)
os.register_at_fork(after_in_child=_after_fork_in_child)
