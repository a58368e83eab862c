"""The machine's NUMA nodes, as a new queue would see them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ._native import ffi, lib

if TYPE_CHECKING:
    from _cffi_backend import _CDataBase

_CPUS_MAX = 1 << 16  # CPUS_MAX in csrc/numa.c


@dataclass(frozen=True)
class Node:
    """One NUMA node that this process may run on."""

    id: int | None
    """The kernel's number; None where the machine is taken as one node."""
    cpus: tuple[int, ...]
    """The node's CPUs that this process may run on."""
    memory: int | None
    """Bytes of memory on the node; None if unknown."""


@dataclass(frozen=True)
class Topology:
    """The nodes, and whether libnuma could be used."""

    nodes: tuple[Node, ...]
    problem: str | None
    """Why workers aren't bound to nodes; None if libnuma serves."""


def topology() -> Topology:
    """Returns the nodes that a queue made now would have a pool for."""
    handle = lib.io_wq_topology_create()
    if handle == ffi.NULL:
        raise OSError(ffi.errno, "cannot read the machine's topology")
    try:
        nodes = tuple(_node(handle, index) for index in range(lib.io_wq_topology_nodes(handle)))
        problem = lib.io_wq_topology_problem(handle)
        return Topology(nodes, ffi.string(problem).decode() if problem else None)  # type: ignore[union-attr]
    finally:
        lib.io_wq_topology_destroy(handle)


def _node(handle: _CDataBase, index: int) -> Node:
    number = lib.io_wq_topology_node_id(handle, index)
    memory = lib.io_wq_topology_node_memory(handle, index)
    cpus = (c for c in range(_CPUS_MAX) if lib.io_wq_topology_node_has_cpu(handle, index, c))
    return Node(
        id=number if number >= 0 else None,
        cpus=tuple(cpus),
        memory=memory if memory >= 0 else None,
    )
