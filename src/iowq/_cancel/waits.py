"""Ending a wait for another thread: for a lock, an item, a thread's end.

A worker that is to be ended asks :func:`may_leave` where it waits (``waits.c``), on its own
thread, with its frames at hand. If the answer is yes, the wait fails, or times out.

A thread in ``Condition.wait`` (so in ``Queue.get``, ``Event.wait``, ``Future.result``,
``Barrier.wait``) is in somebody's list of waiters. It may leave only if it
takes itself off that list, with the condition's lock held: else it would take
with it the one wake-up that a ``notify`` has for somebody.
"""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any, TypeVar

from .._native import lib
from .._work.work import Cancelled, Work, call_object
from . import monitoring, policy, safepoints
from .owners import Owner, caller_of, is_ours, is_whole, owner_of

LOCKS = (type(threading.Lock()), type(threading.RLock()))
_WAIT_CODE = threading.Condition.wait.__code__
#: This package's own waits that may end so; a work's callable may itself be one.
_own_waits = {call_object.__code__}

Wait = TypeVar("Wait", bound=Callable[..., object])


def may_be_ended(function: Wait) -> Wait:
    """Decorates a function of this package in which a work may be ended while it waits."""
    _own_waits.add(function.__code__)
    return function


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
    if (is_ours(frame.f_code) and frame.f_code not in _own_waits) or _is_in_callback():
        return None
    if safepoints.is_inside_import(frame) or not safepoints.may_leave_lock(frame):
        return None
    outcome = _outcome(frame, is_timed, policy.users_of(work))
    if frame.f_code is _WAIT_CODE:
        return outcome if _leave_waiters(work, frame, primitive, refused_ms) else None
    return outcome if not _is_clean_up(frame, refused_ms) and policy.claim(work) else None


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
        called, caller = caller, caller_of(caller)
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
    return not (policy.USE_TRACE or monitoring.can_probe()) or bool(lib.iowq_callback_is_running())


def _is_clean_up(frame: FrameType, refused_ms: int) -> bool:
    """Whether the frame's waiting is to be respected for now."""
    return refused_ms < policy.PATIENCE and safepoints.is_inside_giving(frame)


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
        if waiters is None or _is_clean_up(frame, refused_ms) or not policy.claim(work):
            return False
        waiters.remove(waiter)
        return True
