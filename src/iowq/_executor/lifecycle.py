"""What becomes of queues when the interpreter exits, and when the process forks."""

from __future__ import annotations

import atexit
import os
import threading
import time

from .._cancel import lent, monitoring, on_cancel
from .._native import lib
from .registry import queues

_exiting = False
_CLEAN_UP = 1.0  # seconds for what is interrupted at exit


def refuse_if_exiting() -> None:
    """For a queue that has been registered: who exits asks in the other order.

    :raises RuntimeError: if the interpreter exits.
    """
    if _exiting:
        raise RuntimeError("can't create a queue: the interpreter exits")


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
    monitoring.after_fork()
    on_cancel.after_fork()
    lent.after_fork()
    for queue in queues():
        queue._after_fork()


# where concurrent.futures does it: before atexit's callbacks, while threads can
# still be started. Private, so fall back to atexit.
getattr(threading, "_register_atexit", atexit.register)(_close_all)
os.register_at_fork(after_in_child=_after_fork_in_child)
