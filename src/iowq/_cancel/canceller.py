"""What the canceller's thread does for a work that the cancel signal can't end."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING

from .._native import lib
from .._once import once
from . import hooks, monitoring, on_cancel
from .computing import may_contain_safepoints, may_raise
from .owners import is_ours
from .policy import USE_TRACE, may_end_anywhere

if TYPE_CHECKING:
    from .._work.work import Work

#: Milliseconds after which it is no matter of patience any more that a work goes on.
_OVERDUE = 2000
#: Called with the signal that interrupts a queue's works when one of these is overdue.
overdue_listeners: list[Callable[[int], object]] = []


def inject(work: Work, injecting_ms: int, serial: int) -> None:
    """Arms the work's thread to come to its safepoints, if the work has any.

    Called again until the work has ended.

    :param injecting_ms: since it was called for this work first.
    :param serial: the work's iowq_serial(); 0: it has ended.
    """
    if on_cancel.give_notice(work, serial, injecting_ms):
        return
    queue = work._queue
    if injecting_ms >= _OVERDUE and queue is not None:
        for listener in overdue_listeners:
            listener(lib.io_wq_cancel_signal(queue._wq))
    if not may_end_anywhere(work):
        return
    if USE_TRACE:
        lib.iowq_arm(id(work))
    else:
        stack = [code for code, _line in work._stack()]
        codes = itertools.takewhile(lambda code: not is_ours(code), stack)
        monitoring.arm(work, filter(may_contain_safepoints, codes))


@once
def install() -> None:
    """Installs what cancel needs, once for the process, before the first work."""
    lib.iowq_set_injection(
        id(may_raise),
        id(inject),
        id(monitoring.disarm),
        id(monitoring.probe),
        USE_TRACE,
    )
    hooks.install()
