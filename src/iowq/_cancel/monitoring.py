"""Safepoints by ``sys.monitoring`` (PEP 669): CPython 3.12 and newer.

A worker that is to be ended has its code objects send an event at the beginning of
a function and at each jump, or at each instruction where those of jumps are of no use;
``safepoint.c`` has the callbacks. They are local events, of these code objects alone, and
last until the work has ended, or an exception was raised. Other threads that run the
same code are called back, too, and go on at once.

No event is sent while a callback of any tool, or a trace function, runs on that thread.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable
from types import CodeType
from typing import Any

from .._native import lib
from .safepoints import has_holes

#: Numbers that no kind of tool has by convention, and the optimizers', which are rare.
_TOOLS = (4, 3, 5)
_NAME = "iowq"

_monitoring: Any = getattr(sys, "monitoring", None)
_tool: int | None = None
_events = 0  # that are sent
_lock = threading.Lock()  # guards all below
#: What sends events, and for which works; by id(), as code objects that look alike are equal.
_senders: dict[int, tuple[CodeType, set[int]]] = {}
_codes: dict[int, list[CodeType]] = {}  # of each work


def _has_tool() -> bool:
    """Whether this package is one of the tools; it becomes one when that is asked first."""
    global _tool, _events
    if _tool is not None:
        return True
    free = [tool for tool in _TOOLS if _monitoring.get_tool(tool) in (None, _NAME)]
    callbacks: list[Callable[..., object]] = []
    if not free or lib.iowq_get_callbacks(id(callbacks)):
        return False
    tool, events = free[0], _monitoring.events
    if _monitoring.get_tool(tool) is None:
        _monitoring.use_tool_id(tool, _NAME)
    turns = [event for event in (events.JUMP, events.INSTRUCTION) if _keeps_handlers(tool, event)]
    if events.INSTRUCTION not in turns:
        _monitoring.free_tool_id(tool)
        return False
    for event, callback in zip(
        (events.PY_START, events.JUMP, events.INSTRUCTION), callbacks, strict=True
    ):
        _monitoring.register_callback(tool, event, callback)
    _monitoring.set_local_events(tool, probe.__code__, events.PY_START)
    _tool, _events = tool, events.PY_START | turns[0]
    return True


class _TurnEnds(BaseException):
    pass


def _keeps_handlers(tool: int, event: int) -> bool:
    """Whether an exception from this event's callback, at a loop's end, finds its handlers.

    3.12.1 and 3.13.0 look for them at a wrong position if it comes from a jump's. So it is tried.
    """
    before = -1

    def end(_code: CodeType, offset: int, target: int | None = None) -> None:
        nonlocal before
        goes_back = offset < before if target is None else target < offset
        before = offset
        if goes_back:
            raise _TurnEnds

    def loop() -> None:
        try:
            for _ in range(2):
                pass
        finally:
            left.append(True)

    left: list[bool] = []
    _monitoring.register_callback(tool, event, end)
    _monitoring.set_local_events(tool, loop.__code__, event)
    try:
        loop()
    except _TurnEnds:
        return bool(left)
    finally:
        _monitoring.set_local_events(tool, loop.__code__, 0)
        _monitoring.register_callback(tool, event, None)
    return False


def probe() -> None:
    """Sends an event, by which it is seen whether the calling thread sends any.

    It calls another function, from which trace.c sees which of two depths is which.
    """
    _do_nothing()


def _do_nothing() -> None:
    pass


def can_probe() -> bool:
    """Whether :func:`probe` would send an event."""
    with _lock:
        return _has_tool()


def arm(work: object, codes: Iterable[CodeType]) -> None:
    """Has these code objects call back the thread that runs a work, if it still does."""
    chosen = [(code, has_holes(code)) for code in codes]  # may take a while
    with _lock:  # if the work ends from here on, its end disarms it after this
        if not _has_tool() or not lib.iowq_arm(id(work)):
            return
        mine = _codes.setdefault(id(work), [])
        for code, by_instruction in chosen:
            works = _senders.setdefault(id(code), (code, set()))[1]
            if not works:
                _monitoring.set_local_events(_tool, code, _events_of(by_instruction))
            if id(work) not in works:
                works.add(id(work))
                mine.append(code)


def _events_of(by_instruction: bool) -> int:
    """Where there are holes, it takes the instruction after a jump, too."""
    if by_instruction:
        return int(_monitoring.events.PY_START | _monitoring.events.INSTRUCTION)
    return _events


def disarm(work: object) -> None:
    """Has no code object call back for this work any more."""
    with _lock:
        for code in _codes.pop(id(work), ()):
            works = _senders[id(code)][1]
            works.discard(id(work))
            if not works:
                del _senders[id(code)]
                _monitoring.set_local_events(_tool, code, 0)


def after_fork() -> None:
    """In a forked child: what was armed stayed in the parent."""
    global _lock
    _lock = threading.Lock()
    for code, _works in _senders.values():
        _monitoring.set_local_events(_tool, code, 0)
    _senders.clear()
    _codes.clear()
