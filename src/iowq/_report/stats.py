"""What a queue has counted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from .._arguments import check_share
from .._native import ffi, lib
from .topology import node_id

if TYPE_CHECKING:
    from _cffi_backend import _CDataBase


def seconds_of(bucket: int) -> float:
    """Returns for less than how many seconds the works that it counts were pending."""
    return 2.0**bucket / 1e6


def wait_within(waits: tuple[int, ...], share: float) -> float | None:
    """Returns the seconds within which that share of the works was started; None: of none.

    :param waits: how many were pending for less than ``seconds_of`` each place.
    """
    left = share * sum(waits)
    for bucket, count in enumerate(waits):
        left -= count
        if count and left <= 0:
            return seconds_of(bucket)
    return None


class Stats(NamedTuple):
    """A queue's counts at one instant.

    Works that were enqueued are pending, running, finished or cancelled.
    """

    enqueued: int
    """Works enqueued since the queue was made, as what follows until pending."""
    started: int
    """Works that a worker has begun."""
    finished: int
    """Those whose callable has returned or raised."""
    failed: int
    """Those of them that raised."""
    cancelled: int
    """Those that cancel kept from starting, or ended."""
    pending: int
    """Works not started yet, those that wait for their key included."""
    longest: int
    """The most that were ever pending."""
    running: int
    """Works started and not finished."""
    blocked: int
    """Those of them that wait for something, as they said, or as it seems."""
    workers: int
    """Threads alive."""
    idle: int
    """Workers that wait for work."""
    created: int
    """Threads that were ever created."""
    retired: int
    """Those of them that have ended."""
    waits: tuple[int, ...]
    """How long works were pending: waits[i] of them less than 2 ** i microseconds, but
    not less than half of that. One work in 32 is counted."""
    nodes: dict[int | None, Stats]
    """The same of each node, by its number; longest is the queue's there, too."""

    def wait(self, share: float) -> float:
        """Returns the seconds within which that share of the works was started.

        It is rounded up to a power of two microseconds; 0 if no work was counted.

        :param share: 0.99, for instance.
        """
        return wait_within(self.waits, check_share("share", share)) or 0.0


def get_stats(wq: _CDataBase) -> Stats:
    """Returns the counts of one ``struct io_wq``."""
    topology = lib.io_wq_get_topology(wq)
    count = lib.io_wq_topology_nodes(topology)
    total: Any = ffi.new("struct io_wq_stats *")
    nodes: Any = ffi.new("struct io_wq_stats[]", count)
    lib.io_wq_get_node_stats(wq, total, nodes)
    ids = [node_id(topology, index) for index in range(count)]
    return _convert(total, {ids[i]: _convert(nodes[i], {}) for i in range(count)})


def _convert(stats: Any, nodes: dict[int | None, Stats]) -> Stats:
    values = {field: getattr(stats, field) for field in Stats._fields if field != "nodes"}
    return Stats(**{**values, "waits": tuple(values["waits"])}, nodes=nodes)
