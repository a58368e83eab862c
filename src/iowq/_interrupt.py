"""Ending Python code: computing, or waiting for a lock or a condition.

A worker that is to be ended asks :func:`may_raise` at each safepoint of code that computes
(``_safepoint.c``), and :func:`may_leave` where it waits for another thread (``_waits.c``):
on its own thread, with its frames at hand. If the answer is yes, ``Cancelled`` is raised
right there.

A thread in ``Condition.wait`` (so in ``Queue.get``, ``Event.wait``, ``Future.result``,
``Barrier.wait``) is in somebody's list of waiters. It may leave only if it
takes itself off that list, with the condition's lock held: else it would take
with it the one wake-up that a ``notify`` has for somebody.
"""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any
from weakref import WeakKeyDictionary

from . import _monitor, _safepoints
from ._native import lib
from ._owners import Owner, is_ours, is_whole, owner_of
from ._room import Room
from ._work import Cancelled, Work, run

#: How a worker comes to its safepoints: see _safepoint.c.
USE_TRACE = sys.version_info < (3, 12)
#: Milliseconds of running after which also the second best safepoints will do.
PATIENCE = 1000

#: Of the events, those that aren't a trace function's.
_EVENT_START, _EVENT_JUMP, _EVENT_NEXT = -1, -2, -3
#: Answers: _NEXT asks again at the next instruction.
_NO, _RAISE, _NEXT = 0, 1, 2

_WAIT_CODE = threading.Condition.wait.__code__
#: This package's own waits that may end so: of a work's callable itself, and for room.
_MAY_BE_LEFT = (run.__code__, Room.wait.__code__)
LOCKS = (type(threading.Lock()), type(threading.RLock()))


def claim(work: Work) -> bool:
    """Whether this work is to be ended now, by the caller."""
    return bool(lib.iowq_claim(work._memory))


# ---- code that computes


def may_raise(
    work: Work,
    event: int,
    offset: int,
    target: int,
    looked_ms: int,
    tracks: dict[FrameType, dict[int, int]],
) -> int:
    """Whether Cancelled is to be raised where the calling thread's code is.

    :param event: -1: a function begins. -2: it goes back from offset to target. -3: it
        is at the next instruction after one that was no place to raise, but for that would
        have been a safepoint. Else a trace function's: it is about to go on, by a line or
        an instruction. An exception would be raised where it goes on.
    :param looked_ms: how long the work has run without a good safepoint.
    :param tracks: where frames were, by event, since the worker was armed; the caller
        removes frames that end.
    """
    if not may_end_anywhere(work):
        return _NO
    frame = sys._getframe(1)
    code = frame.f_code
    position = frame.f_lasti if USE_TRACE else offset if event == _EVENT_START else target
    is_start = _safepoints.is_start(code, position)
    if event == _EVENT_JUMP:
        is_turn = _safepoints.is_loop_end(code, offset, target)
    elif event in (_EVENT_START, _EVENT_NEXT):
        is_turn = event == _EVENT_NEXT
    else:
        track = tracks.setdefault(frame, {})
        last, track[event] = track.get(event), position
        is_turn = _safepoints.is_turn(code, last, position)
    if not (is_start or is_turn):
        return _NO
    reason = _why_not(work, frame, position, is_turn, looked_ms)
    if reason is not None:
        _note(work, reason, frame, looked_ms)
        return _NO
    if not _safepoints.keeps_handlers(code, position):
        return _NEXT
    return _RAISE if claim(work) else _NO


def may_end_anywhere(work: Work) -> bool:
    queue = work._queue
    return queue is not None and queue._interrupt_anywhere


def _users_of(work: Work) -> Collection[str]:
    """The packages that count as the user's."""
    queue = work._queue
    return queue._interruptible if queue is not None else ()


def _why_not(
    work: Work, frame: FrameType, position: int, is_turn: bool, looked_ms: int
) -> str | None:
    """Why Cancelled must not be raised in this frame now; None: it may."""
    code, users = frame.f_code, _users_of(work)
    if not may_contain_safepoints(code) or _safepoints.is_in_callback(frame):
        return "is in code whose steps belong together"
    if _safepoints.is_inside_import(frame):
        return "imports a module"
    if _safepoints.holds_something(frame, position, users):
        return "holds something that it took without with or try"
    is_users = owner_of(frame, users) is Owner.USER
    if not (is_turn or is_users or _safepoints.is_called_by_user(frame, users)):
        return "is in code of others, which calls a function"
    if looked_ms >= PATIENCE:
        return None
    if not is_users and is_turn:
        return "is in code of others"
    if code.co_name == "<module>" or _safepoints.is_inside_paired(frame):
        return "takes or gives back something"
    if _safepoints.is_handling() or _safepoints.is_inside_finally(frame, position):
        return "cleans up"
    return None


def may_contain_safepoints(code: CodeType) -> bool:
    return not (is_ours(code) or is_whole(code) or _safepoints.is_paired(code))


#: Why works that are to be ended go on, for those who look.
_reasons: WeakKeyDictionary[Work, str] = WeakKeyDictionary()


def _note(work: Work, reason: str, frame: FrameType, looked_ms: int) -> None:
    if looked_ms >= PATIENCE:
        _reasons[work] = f"{reason}: {frame.f_code.co_filename}:{frame.f_lineno}"


def why_it_goes_on(work: Work) -> str | None:
    """Returns why a work that is to be ended could not be, the last time that was asked."""
    return _reasons.get(work)


# ---- waits


#: What a wait for another thread ends with: an exception, or False: its time is up; or None:
#: it goes on.
Outcome = type[BaseException] | bool | None


def may_leave(work: Work, primitive: object, is_timed: bool, refused_ms: int) -> Outcome:
    """How the calling work's wait for a lock, an item or a thread may end now.

    :param primitive: what it waits for; it has not got it, nor will it get it.
    :param is_timed: whether the wait has a time-out.
    :param refused_ms: since it was asked first, in this work.
    """
    frame = sys._getframe(1)
    if (is_ours(frame.f_code) and frame.f_code not in _MAY_BE_LEFT) or _is_in_callback():
        return None
    if _safepoints.is_inside_import(frame) or not _safepoints.may_leave_lock(frame):
        return None
    outcome = _outcome(frame, is_timed, _users_of(work))
    if frame.f_code is _WAIT_CODE:
        return outcome if _leave_waiters(work, frame, primitive, refused_ms) else None
    return outcome if not _is_clean_up(frame, refused_ms) and claim(work) else None


#: What those do that have a time-out when it has come.
_TIME_OUTS: dict[CodeType, Outcome] = {
    queue.Queue.get.__code__: queue.Empty,
    queue.Queue.put.__code__: queue.Full,
    threading.Condition.wait.__code__: False,
    threading.Event.wait.__code__: False,
}


def _outcome(frame: FrameType, is_timed: bool, users: Collection[str]) -> Outcome:
    """Cancelled; or, for code of others, which may be unprepared for that, its own time-out.

    Connection pools, above all, forget whoever waits for a connection by ``except Exception``.
    Only once: code that tries again after a time-out would do so for ever.
    """
    called = None
    caller: FrameType | None = frame
    while caller is not None and is_whole(caller.f_code):
        called, caller = caller, caller.f_back
    if (
        caller is None
        or owner_of(caller, users) is not Owner.OTHERS
        or lib.io_wq_worker_interrupted()
    ):
        return Cancelled
    if called is None:
        return False if is_timed else Cancelled
    if called.f_locals.get("timeout") is None:
        return Cancelled
    return _TIME_OUTS.get(called.f_code, Cancelled)


def _is_in_callback() -> bool:
    """Whether a tracer, or a tool, waits on its own behalf, in the midst of any code."""
    return not (USE_TRACE or _monitor.can_probe()) or bool(lib.iowq_callback_is_running())


def _is_clean_up(frame: FrameType, refused_ms: int) -> bool:
    """Whether the frame's waiting is to be respected for now."""
    return refused_ms < PATIENCE and _safepoints.is_inside_giving(frame)


@contextmanager
def _still_waiting(frame: FrameType, waiter: object) -> Iterator[Any]:
    """Holds the lock of the condition that waiter is in a list of; gives that list, or None.

    None if it has been notified, or the lock isn't free: it isn't waited for.
    """
    condition = frame.f_locals.get("self")
    lock: Any = getattr(condition, "_lock", None)
    if (
        frame.f_locals.get("waiter") is not waiter
        or type(lock) not in LOCKS
        or not lock.acquire(blocking=False)
    ):
        yield None
        return
    try:
        waiters = condition._waiters  # type: ignore[union-attr]
        yield waiters if waiter in waiters else None
    finally:
        lock.release()


def _leave_waiters(work: Work, frame: FrameType, waiter: object, refused_ms: int) -> bool:
    """Takes the calling thread, which waits, off its condition's waiters."""
    with _still_waiting(frame, waiter) as waiters:
        if waiters is None or _is_clean_up(frame, refused_ms) or not claim(work):
            return False
        waiters.remove(waiter)
        return True
