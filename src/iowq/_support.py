"""What cancel can do on this machine, and what it can't."""

from __future__ import annotations

import functools
import warnings
from typing import NamedTuple

from ._native import lib
from ._topology import count_nodes, topology


class CancelSupport(NamedTuple):
    """What cancel can end; :attr:`problems` says why not all."""

    system_calls: bool
    """Blocked system calls, made by the interpreter and by known libraries."""
    python_code: bool
    """Code that computes, or waits for another thread."""
    problems: tuple[str, ...]
    """What is missing, in words; empty if nothing is."""


_NEEDS = (
    (lib.IO_WQ_CAN_SEE_CALLS, "/proc/self/task/*/syscall can't be read (no /proc, or forbidden)"),
    (lib.IO_WQ_CAN_END_CALLS, "the processor is neither x86-64 nor aarch64"),
    (lib.IO_WQ_CAN_FIND_CALLERS, "the C library has no tables for unwinding (musl)"),
)


@functools.cache
def cancel_support() -> CancelSupport:
    """Returns what cancel can do here. Asked of the system once."""
    support = lib.io_wq_cancel_support()
    problems = [
        f"{problem}: system calls of cancelled work return EINTR, after which most code tries again"
        for need, problem in _NEEDS
        if not support & need
    ]
    return CancelSupport(
        system_calls=all(support & need for need, _ in _NEEDS),
        python_code=True,
        problems=tuple(problems),
    )


@functools.cache
def say_once() -> None:
    """Warns of what is lost, with the first queue."""
    for problem in cancel_support().problems:
        warnings.warn(f"iowq cannot cancel all running work: {problem}", RuntimeWarning, 4)
    nodes = count_nodes()
    if nodes > 1 and (lost := topology().problem):
        warnings.warn(
            f"iowq takes this machine's {nodes} NUMA nodes for one, and binds nothing: {lost} "
            "(libnuma is in the package libnuma1 or numactl-libs)",
            RuntimeWarning,
            4,
        )
