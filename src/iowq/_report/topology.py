"""The machine's NUMA nodes, as a new queue would see them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .._native import ffi, lib

if TYPE_CHECKING:
    from _cffi_backend import _CDataBase


@dataclass(frozen=True)
class Node:
    """One NUMA node that this process may run on."""

    id: int | None
    """The kernel's number; None where the machine is taken as one node."""
    cpus: tuple[int, ...]
    """The node's CPUs that this process may run on."""
    memory: int | None
    """Bytes of memory on the node; None if unknown."""
    distances: tuple[int, ...] = (10,)
    """How far the memory of each node is from this one's CPUs; 10: its own."""


@dataclass(frozen=True)
class Topology:
    """The nodes, and whether libnuma could be used."""

    nodes: tuple[Node, ...]
    problem: str | None
    """Why workers aren't bound to nodes; None if libnuma serves."""
    library: str | None = None
    """The file that libnuma was loaded from."""

    def restricted_to(self, cpus: frozenset[int] | None) -> Topology:
        """Returns it with these CPUs only, and without nodes that have none of them."""
        if cpus is None:
            return self
        left = [i for i, node in enumerate(self.nodes) if cpus & frozenset(node.cpus)]
        nodes = tuple(
            Node(
                id=self.nodes[i].id,
                cpus=tuple(cpu for cpu in self.nodes[i].cpus if cpu in cpus),
                memory=self.nodes[i].memory,
                distances=tuple(self.nodes[i].distances[j] for j in left),
            )
            for i in left
        )
        return Topology(nodes, self.problem, self.library)


def topology() -> Topology:
    """Returns the nodes that a queue made now would have a pool for."""
    handle = lib.io_wq_topology_create()
    if handle == ffi.NULL:
        raise OSError(ffi.errno, "cannot read the machine's topology")
    try:
        return read_topology(handle)
    finally:
        lib.io_wq_topology_destroy(handle)


def read_topology(handle: _CDataBase) -> Topology:
    """Returns what a ``struct io_wq_topology`` says."""
    nodes = tuple(_node(handle, index) for index in range(lib.io_wq_topology_nodes(handle)))
    problem = _text(lib.io_wq_topology_problem(handle))
    return Topology(nodes, problem, _text(lib.io_wq_topology_library(handle)))


def _text(text: _CDataBase) -> str | None:
    return ffi.string(text).decode() if text else None  # type: ignore[union-attr]


def _node(handle: _CDataBase, index: int) -> Node:
    memory = lib.io_wq_topology_node_memory(handle, index)
    numbers = range(lib.io_wq_topology_nr_cpus(handle))
    cpus = (c for c in numbers if lib.io_wq_topology_node_has_cpu(handle, index, c))
    others = range(lib.io_wq_topology_nodes(handle))
    return Node(
        id=node_id(handle, index),
        cpus=tuple(cpus),
        memory=memory if memory >= 0 else None,
        distances=tuple(lib.io_wq_topology_distance(handle, index, other) for other in others),
    )


def node_id(handle: _CDataBase, index: int) -> int | None:
    """Returns the kernel's number of a node, or None where the machine is taken as one."""
    number = lib.io_wq_topology_node_id(handle, index)
    return number if number >= 0 else None


def count_nodes() -> int:
    """How many nodes with CPUs the machine has, whether libnuma is there or not."""
    try:
        numbers = Path("/sys/devices/system/node/has_cpu").read_text()
    except OSError:
        return 1
    ranges = re.findall(r"(\d+)(?:-(\d+))?", numbers)
    return sum(int(last or first) - int(first) + 1 for first, last in ranges)
