"""io_uring's worker pool for Python.

Hashed work, cancel through signals, workers that follow the work, NUMA::

    import iowq

    with iowq.WorkQueue(concurrency=32) as wq:
        wq.enqueue(fetch, url)
        wq.enqueue_hashed("app.log", write_line, "in order")
        wq.flush()
"""

from ._cancel import cancel_requested, checkpoint, current_work
from ._chain import Chain
from ._connections import shut_down_after_cancel
from ._entrance import Entrance
from ._future import Future
from ._notice import on_cancel
from ._queue import BrokenWorkQueue, MaxWorkers, WorkQueue, WorkQueueFull, create
from ._scopes import blocking, shield, timeout
from ._stats import Stats
from ._support import CancelSupport, cancel_support
from ._topology import Node, Topology, topology
from ._work import Cancel, Cancelled, Work
from ._workers import Worker, dump

__all__ = [
    "BrokenWorkQueue",
    "Cancel",
    "CancelSupport",
    "Cancelled",
    "Chain",
    "Entrance",
    "Future",
    "MaxWorkers",
    "Node",
    "Stats",
    "Topology",
    "Work",
    "WorkQueue",
    "WorkQueueFull",
    "Worker",
    "blocking",
    "cancel_requested",
    "cancel_support",
    "checkpoint",
    "create",
    "current_work",
    "dump",
    "on_cancel",
    "shield",
    "shut_down_after_cancel",
    "timeout",
    "topology",
]
__version__ = "0.1.0"
