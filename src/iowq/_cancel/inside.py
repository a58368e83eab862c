"""For code inside a work: whether cancel was asked for, and giving way to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._native import lib
from .interruption import interruption

if TYPE_CHECKING:
    from .._work.work import Work


def current_work() -> Work | None:
    """Returns the work that the calling code belongs to; None outside of one."""
    works: list[Work] = []
    lib.iowq_get_current(id(works))
    return works[0] if works else None


def cancel_requested() -> bool:
    """Whether the calling code's work is to be cancelled; False outside of one."""
    return bool(lib.io_wq_worker_cancelled())


def checkpoint() -> None:
    """Raises :exc:`Cancelled` if the calling code's work is to be cancelled.

    For code that wants to choose where it ends. Does nothing inside a ``shield``, nor
    in clean-up that has begun.
    """
    if lib.io_wq_worker_claim():
        raise interruption()
