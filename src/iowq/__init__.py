"""io_uring's worker pool for Python.

Hashed work, cancel through signals, workers that follow the work, NUMA::

    import iowq

    with iowq.WorkQueue(concurrency=32) as wq:
        wq.enqueue(fetch, url)
        wq.enqueue_hashed("app.log", write_line, "in order")
        wq.flush()
"""

from ._queue import BrokenWorkQueue, Stats, WorkQueue, create
from ._topology import Node, Topology, topology
from ._work import Cancel, Work

__all__ = [
    "BrokenWorkQueue",
    "Cancel",
    "Node",
    "Stats",
    "Topology",
    "Work",
    "WorkQueue",
    "create",
    "topology",
]
__version__ = "0.1.0"
