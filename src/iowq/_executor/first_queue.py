"""What is told with the first queue of a process: what is seen to be lost on this machine."""

from __future__ import annotations

import functools
import warnings

from .._cancel.requirements import missing, warn_of
from .._report.topology import count_nodes, topology

_STACKLEVEL = 3  # whoever makes the queue


@functools.cache
def warn_once() -> None:
    """Warns of what cancel can't do here, and of nodes that nothing is bound to."""
    warn_of(missing(), _STACKLEVEL)
    nodes = count_nodes()
    if nodes > 1 and (lost := topology().problem):
        warnings.warn(
            f"iowq takes this machine's {nodes} NUMA nodes for one, and binds nothing: {lost} "
            "(libnuma is in the package libnuma1 or numactl-libs)",
            RuntimeWarning,
            _STACKLEVEL,
        )
