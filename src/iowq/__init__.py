"""io_uring's worker pool for Python.

Hashed work, cancel through signals, workers that follow the work, NUMA::

    import iowq

    with iowq.WorkQueue(concurrency=32) as wq:
        wq.enqueue(fetch, url)
        wq.enqueue_hashed("app.log", write_line, "in order")
        wq.flush()
"""

from . import _warm_up  # noqa: F401  # before threads can come
from ._cancel.connections import shut_down_after_cancel
from ._cancel.inside import cancel_requested, checkpoint, current_work
from ._cancel.on_cancel import on_cancel
from ._cancel.scopes import blocking, interruptible, shield, timeout
from ._diagnose.cancel_support import CancelSupport, cancel_support
from ._diagnose.dump import dump
from ._executor.chain import Chain
from ._executor.executor import QueueExecutor
from ._executor.queue import BrokenWorkQueue, MaxWorkers, WorkQueue, WorkQueueFull, create
from ._executor.views import ExecutorView
from ._report.stats import Stats
from ._report.topology import Node, Topology, topology
from ._report.worker import Worker
from ._work.future import Future
from ._work.work import Cancel, Cancelled, Work

__all__ = [
    "BrokenWorkQueue",
    "Cancel",
    "CancelSupport",
    "Cancelled",
    "Chain",
    "ExecutorView",
    "Future",
    "MaxWorkers",
    "Node",
    "QueueExecutor",
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
    "interruptible",
    "on_cancel",
    "shield",
    "shut_down_after_cancel",
    "timeout",
    "topology",
]
__version__ = "0.1.0"
