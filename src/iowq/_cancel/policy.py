"""What decides everywhere whether a work is ended now, and what is told if it isn't."""

from __future__ import annotations

import sys
from collections.abc import Collection
from types import FrameType
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from .._native import lib

if TYPE_CHECKING:
    from .._work.work import Work

#: How a worker comes to its safepoints: see safepoint.c.
USE_TRACE = sys.version_info < (3, 12)
#: Milliseconds of running after which also the second best safepoints will do.
PATIENCE = 1000


def claim(work: Work) -> bool:
    """Whether this work is to be ended now, by the caller."""
    return bool(lib.iowq_claim(id(work)))


def may_end_anywhere(work: Work) -> bool:
    """Whether its queue lets code that computes be ended."""
    queue = work._queue
    return queue is not None and queue._interrupt_anywhere


def users_of(work: Work) -> Collection[str]:
    """The packages that count as the user's."""
    queue = work._queue
    return queue._interruptible if queue is not None else ()


#: Why works that are to be ended go on, for those who ask.
_reasons: WeakKeyDictionary[Work, str] = WeakKeyDictionary()


def note_reason(work: Work, reason: str, frame: FrameType, computing_ms: int) -> None:
    """Notes why a work goes on, once that takes long."""
    if computing_ms >= PATIENCE:
        _reasons[work] = f"{reason}: {frame.f_code.co_filename}:{frame.f_lineno}"


def why_it_goes_on(work: Work) -> str | None:
    """Returns why a work that is to be ended could not be, the last time that was asked."""
    return _reasons.get(work)
