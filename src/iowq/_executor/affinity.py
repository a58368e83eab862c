"""Which nodes and CPUs a queue's workers run on."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from .._native import ffi, lib

if TYPE_CHECKING:
    from _cffi_backend import _CDataBase

    from .._report.topology import Topology

_WORD_BITS = 8 * ffi.sizeof("long")


def choose_cpus(
    topology: Topology, nodes: Iterable[int] | None, cpus: Iterable[int] | None
) -> frozenset[int]:
    """Returns the CPUs that are meant."""
    chosen = every = frozenset(cpu for node in topology.nodes for cpu in node.cpus)
    if nodes is not None:
        of_node = {node.id or 0: node.cpus for node in topology.nodes}
        numbers = _check("nodes", "node", nodes, frozenset(of_node))
        chosen &= frozenset(cpu for number in numbers for cpu in of_node[number])
    if cpus is not None:
        wanted = _check("cpus", "CPU", cpus, every)
        if not chosen & wanted:
            raise ValueError(f"cpus {sorted(wanted)} are not on nodes {sorted(numbers)}")
        chosen &= wanted
    return chosen


def _check(name: str, what: str, values: Iterable[int], known: frozenset[int]) -> frozenset[int]:
    if isinstance(values, (int, str)) or not isinstance(values, Iterable):
        raise TypeError(f"{name} must be numbers in an iterable, not {values!r}")
    chosen = list(values)
    for value in chosen:
        if not isinstance(value, int) or isinstance(value, bool):
            raise TypeError(f"{name} must be ints, not {type(value).__name__}: {value!r}")
        if value not in known:
            raise ValueError(
                f"{name}: {what} {value!r} is not one that this queue may use: {sorted(known)}"
            )
    if not chosen:
        raise ValueError(f"{name} must not be empty")
    return frozenset(chosen)


def set_cpus(wq: _CDataBase, cpus: frozenset[int] | None) -> None:
    """Restricts the workers of one ``struct io_wq`` to these CPUs; None: doesn't any more."""
    words = [0] * (max(cpus) // _WORD_BITS + 1) if cpus else []
    for cpu in cpus or ():
        words[cpu // _WORD_BITS] |= 1 << cpu % _WORD_BITS
    mask: Any = ffi.new("unsigned long[]", words) if words else ffi.NULL
    error = lib.io_wq_cpu_affinity(wq, mask, len(words))
    if error:
        raise OSError(-error, f"cannot set the CPUs: {os.strerror(-error)}")
