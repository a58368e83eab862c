"""io_uring's worker pool for Python.

Hashed work, cancel through signals, workers that follow the work, NUMA::

    import iowq

    with iowq.WorkQueue(concurrency=32) as wq:
        wq.enqueue(fetch, url)
        wq.enqueue_hashed("app.log", write_line, "in order")
        wq.flush()
"""

from ._cancel import cancel_requested, checkpoint, current_work
from ._queue import BrokenWorkQueue, Stats, WorkQueue, create
from ._topology import Node, Topology, topology
from ._work import Cancel, Cancelled, Work

__all__ = [
    "BrokenWorkQueue",
    "Cancel",
    "Cancelled",
    "Node",
    "Stats",
    "Topology",
    "Work",
    "WorkQueue",
    "cancel_requested",
    "checkpoint",
    "create",
    "current_work",
    "topology",
]
__version__ = "0.1.0"
