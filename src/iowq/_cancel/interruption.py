"""What the calling work is to be ended with, where it is ended by Python code of this package."""

from __future__ import annotations

from .._native import lib


def interruption() -> BaseException | type[BaseException]:
    """Returns what ends the work, which was claimed: ``Cancelled``, or what its time limit says."""
    found: list[BaseException | type[BaseException]] = []
    lib.iowq_get_interruption(id(found))
    return found[0]
