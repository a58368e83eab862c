"""What the canceller's thread does for a work that the cancel signal can't end."""

from __future__ import annotations

import functools

from . import _hooks, _monitor, _notice, _safepoints, _support
from ._interrupt import USE_TRACE, may_contain_safepoints, may_end_anywhere, may_raise
from ._native import lib
from ._work import Cancelled, Work

#: Milliseconds after which it is no matter of patience any more that a work goes on.
_OVERDUE = 2000


def reach(work: Work, reached_ms: int, serial: int) -> None:
    """Has the work come to its safepoints, if it has any; called again until it has ended.

    :param reached_ms: since it was called for this work first.
    :param serial: the work's iowq_serial(); 0: it has ended.
    """
    if _notice.give(work, serial, reached_ms):
        return
    queue = work._queue
    if reached_ms >= _OVERDUE and queue is not None:
        _support.say_when_overdue(lib.io_wq_cancel_signal(queue._wq))
    if not may_end_anywhere(work):
        return
    frame = work._frame()
    if frame is None:
        return
    if USE_TRACE:
        lib.iowq_arm(work._memory, id(frame))
    else:
        codes = filter(may_contain_safepoints, _safepoints.stack(frame))
        _monitor.arm(work, work._memory, codes)


@functools.cache
def install() -> None:
    """Installs what cancel needs, once for the process, before the first work."""
    lib.iowq_set_interrupts(
        id(may_raise),
        id(reach),
        id(_monitor.disarm),
        id(Cancelled),
        id(_monitor.probe),
        USE_TRACE,
    )
    _hooks.install()
