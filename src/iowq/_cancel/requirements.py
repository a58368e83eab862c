"""What cancel needs of the machine, and what is seen to be missing, without trying it."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

from .._native import lib
from . import hooks

_NEEDS = (
    (lib.IO_WQ_CAN_SEE_CALLS, "/proc/self/task/*/syscall can't be read (no /proc, or forbidden)"),
    (lib.IO_WQ_CAN_END_CALLS, "the processor is neither x86-64 nor aarch64"),
    (lib.IO_WQ_CAN_FIND_CALLERS, "on musl, callers are known on x86-64 alone"),
)


def missing() -> list[str]:
    """Returns what is missing, in words."""
    support = lib.io_wq_cancel_support()
    missing = [
        f"{problem}: system calls of cancelled work return EINTR, after which most code tries again"
        for need, problem in _NEEDS
        if not support & need
    ]
    if not hooks.install():
        missing.append("the ssl module's reads can't be watched: they are not ended")
    return missing


def warn_of(problems: Iterable[str], stacklevel: int) -> None:
    """Warns of each of these problems."""
    for problem in problems:
        warnings.warn(
            f"iowq cannot cancel all running work: {problem}", RuntimeWarning, stacklevel + 1
        )
