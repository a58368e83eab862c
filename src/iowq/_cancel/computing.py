"""Ending code that computes: ``Cancelled`` at a safepoint.

A worker that is to be ended asks :func:`may_raise` at each safepoint (``safepoint.c``), on
its own thread, with its frames at hand. If the answer is yes, ``Cancelled`` is raised right
there.
"""

from __future__ import annotations

import sys
from types import CodeType, FrameType
from typing import TYPE_CHECKING

from . import policy, safepoints
from .owners import Owner, is_ours, is_whole, owner_of

if TYPE_CHECKING:
    from .._work.work import Work

#: Of the events, those that aren't a trace function's.
_EVENT_START, _EVENT_JUMP, _EVENT_NEXT = -1, -2, -3
#: Answers: _NEXT asks again at the next instruction.
_NO, _RAISE, _NEXT = 0, 1, 2


def may_raise(
    work: Work,
    event: int,
    offset: int,
    target: int,
    computing_ms: int,
    tracks: dict[FrameType, dict[int, int]],
) -> int:
    """Whether Cancelled is to be raised where the calling thread's code is.

    :param event: -1: a function begins. -2: it goes back from offset to target. -3: it
        is at the next instruction after one that had no handlers in force, but for that would
        have been a safepoint. Else a trace function's: it is about to go on, by a line or
        an instruction. An exception would be raised where it goes on.
    :param computing_ms: how long the work has run without a good safepoint.
    :param tracks: where frames were, by event, since the worker was armed; the caller
        removes frames that end.
    """
    if not policy.may_end_anywhere(work):
        return _NO
    frame = sys._getframe(1)
    code = frame.f_code
    position = frame.f_lasti if policy.USE_TRACE else offset if event == _EVENT_START else target
    is_start = safepoints.is_start(code, position)
    if event == _EVENT_JUMP:
        is_turn = safepoints.is_loop_end(code, offset, target)
    elif event in (_EVENT_START, _EVENT_NEXT):
        is_turn = event == _EVENT_NEXT
    else:
        track = tracks.setdefault(frame, {})
        last, track[event] = track.get(event), position
        is_turn = safepoints.is_turn(code, last, position)
    if not (is_start or is_turn):
        return _NO
    reason = _why_not(work, frame, position, is_turn, computing_ms)
    if reason is not None:
        policy.note_reason(work, reason, frame, computing_ms)
        return _NO
    if not safepoints.keeps_handlers(code, position):
        return _NEXT
    return _RAISE if policy.claim(work) else _NO


def _why_not(
    work: Work, frame: FrameType, position: int, is_turn: bool, computing_ms: int
) -> str | None:
    """Why Cancelled must not be raised in this frame now; None: it may."""
    code, users = frame.f_code, policy.users_of(work)
    if not may_contain_safepoints(code) or safepoints.is_in_callback(frame):
        return "is in code whose steps belong together"
    if safepoints.is_inside_import(frame):
        return "imports a module"
    if safepoints.holds_something(frame, position, users):
        return "holds something that it took without with or try"
    is_users = owner_of(frame, users) is Owner.USER
    if not (is_turn or is_users or safepoints.is_called_by_user(frame, users)):
        return "is in code of others, which calls a function"
    if computing_ms >= policy.PATIENCE:
        return None
    if not is_users and is_turn:
        return "is in code of others"
    if code.co_name == "<module>" or safepoints.is_inside_paired(frame):
        return "takes or gives back something"
    if safepoints.is_handling() or safepoints.is_inside_finally(frame, position):
        return "cleans up"
    return None


def may_contain_safepoints(code: CodeType) -> bool:
    return not (is_ours(code) or is_whole(code) or safepoints.is_paired(code))
