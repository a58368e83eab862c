"""iowq on a Dask cluster: cancelled tasks end, also those that run; keys keep their order.

::

    import dask
    import iowq.dask

    iowq.dask.register(client)  # on all workers, and on those that come later
    future = client.submit(fetch, url)
    future.cancel()  # ends it where it is

    with dask.annotate(timeout="30s", iowq_key="app.log"):
        client.submit(write_line, "in order", pure=False)

This module needs ``distributed``: ``pip install 'iowq[dask]'``.
"""

from ._dask.cluster_queue import ClusterQueue, register, submit
from ._dask.executor import ThreadPoolExecutor
from ._dask.scheduler import SchedulerPlugin
from ._dask.worker import WorkerPlugin

__all__ = [
    "ClusterQueue",
    "SchedulerPlugin",
    "ThreadPoolExecutor",
    "WorkerPlugin",
    "register",
    "submit",
]
