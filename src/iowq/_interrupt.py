"""Ending Python code: computing, or waiting for a lock or a condition.

``_look.c`` has the worker's own thread call :func:`look`, wherever its code is. If
the place is good, ``Cancelled`` is raised right there.

A thread in ``Condition.wait`` (so in ``Queue.get``, ``Event.wait``, ``Future.result``,
``Barrier.wait``) is in somebody's list of waiters. It may leave only if it
takes itself off that list, with the condition's lock held: else it would take
with it the one wake-up that a ``notify`` has for somebody.
"""

from __future__ import annotations

import dis
import errno
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any

from . import _places
from ._native import lib
from ._places import Place
from ._work import Cancelled, Work

#: How a worker is made to look: see _look.c. With it, waits are ended from outside;
#: without, a signal has the worker look from inside of the wait.
USE_TRACE = sys.version_info < (3, 12)
#: NPENDINGCALLS, later MAXPENDINGCALLSLOOP, of the interpreter's sources.
_BATCH = 0 if USE_TRACE else 32 if sys.version_info < (3, 13) else 100
#: Milliseconds of running after which also the second best places will do, and those
#: that are merely not known to be bad.
PATIENCE, LONG_PATIENCE = 1000, 5000

_EVENT_PENDING_CALL = -1
_INSIDE_WAIT, _WOKEN, _ENDED_QUIETLY = 1, 2, 4

#: The ssl module takes failed reads for the end of the data (gh-115627).
_SSL_HIDES_ERRORS = sys.version_info < (3, 11, 9) or (3, 12) <= sys.version_info < (3, 12, 3)
_SSL = os.path.join(os.path.dirname(threading.__file__), "ssl.py")  # noqa: PTH118, PTH120

_WAIT_CODE = threading.Condition.wait.__code__
_LOCKS = (type(threading.Lock()), type(threading.RLock()))


def look(
    work: Work, event: int, flags: int, looked_ms: int, tracks: dict[FrameType, dict[int, int]]
) -> bool:
    """Whether Cancelled is to be raised where the calling thread's code is.

    :param event: a trace function's, or -1: the interpreter looked up.
    :param flags: 1: called from inside a wait for a lock. 2: the wait has been ended.
        4: a call was ended whose error may be hidden: nothing may go on as if it wasn't.
    :param looked_ms: how long the work has run without a good place.
    :param tracks: where frames were, by event, since the first of these looks; the
        caller removes frames that end.
    """
    frame = sys._getframe(1)
    if flags & _ENDED_QUIETLY:
        return not _places.is_ours(frame.f_code) and _hides_cancel(sys.exc_info()[1])
    if flags & _WOKEN:
        return frame.f_code is _WAIT_CODE
    if frame.f_code is _WAIT_CODE:
        return event == _EVENT_PENDING_CALL and _leave_waiters(work, frame, looked_ms)
    if flags & _INSIDE_WAIT and event == _EVENT_PENDING_CALL:
        may = _places.may_leave_lock(frame) and not _is_clean_up(frame, looked_ms)
    elif _may_end_anywhere(work):
        may = _is_good(_place_of(frame, event, tracks), frame, looked_ms)
        if may and event == _EVENT_PENDING_CALL and _places.loses_handlers(frame):
            _raise_at_next_step(work, frame)
            may = False
    else:
        may = False
    return may and bool(lib.iowq_claim(work._memory))


def _may_end_anywhere(work: Work) -> bool:
    queue = work._queue
    return queue is not None and queue._interrupt_anywhere


def _hides_cancel(error: BaseException | None) -> bool:
    """Whether the code, which handles error, can't know that its call was cancelled."""
    if type(error).__module__ != "ssl":
        return error is None
    return getattr(error, "errno", None) != errno.ECANCELED


def _place_of(frame: FrameType, event: int, tracks: dict[FrameType, dict[int, int]]) -> Place:
    if event == _EVENT_PENDING_CALL:
        return _places.at_instruction(frame)
    track = tracks.setdefault(frame, {})
    last, track[event] = track.get(event), frame.f_lasti
    return _places.at_step(frame, last)


def _is_good(place: Place, frame: FrameType, looked_ms: int) -> bool:
    code = frame.f_code
    if _places.is_ours(code) or _places.is_whole(code):
        return False
    if looked_ms >= LONG_PATIENCE and not _places.is_taking_or_giving(frame):
        return True
    if place is Place.OTHER or _places.is_paired(code) or _places.is_in_callback(frame):
        return False
    return looked_ms >= PATIENCE or not (
        _places.is_library(code)
        or code.co_name == "<module>"
        or _places.is_inside_import(frame)
        or _places.is_inside_paired(frame)
        or _places.is_handling()
        or _places.is_inside_finally(frame)
    )


def _is_clean_up(frame: FrameType, looked_ms: int) -> bool:
    """Whether the frame's waiting is to be respected for now."""
    return looked_ms < PATIENCE and _places.is_inside_giving(frame)


def _raise_at_next_step(work: Work, frame: FrameType) -> None:
    """Has the calling thread's frame raise from a trace function: see loses_handlers."""

    def trace(traced: FrameType, event: str, _arg: object) -> Any:
        if traced is frame and event in ("line", "opcode"):
            sys.settrace(None)
            frame.f_trace = None
            if lib.iowq_claim(work._memory):
                raise Cancelled
        return trace

    if sys.gettrace() is None:
        frame.f_trace = trace
        frame.f_trace_opcodes = True
        sys.settrace(trace)


# ---- conditions


def _acquire_calls(code: CodeType) -> frozenset[int]:
    """Where Condition.wait waits: the calls of `acquire` after it has let its lock go."""
    offsets, released, acquiring = set(), False, False
    for instruction in dis.get_instructions(code):
        if instruction.argval in ("_release_save", "_acquire_restore"):
            released = instruction.argval == "_release_save"
        acquiring = acquiring or instruction.argval == "acquire"
        if acquiring and instruction.opname.startswith("CALL"):
            acquiring = False
            if released:
                offsets.add(instruction.offset)
    return frozenset(offsets)


_WAIT_OFFSETS = _acquire_calls(_WAIT_CODE)


@contextmanager
def _still_waiting(frame: FrameType) -> Iterator[bool]:
    """Holds the condition's lock; whether the frame is among its waiters.

    No if it has been notified, or the lock isn't free: it isn't waited for.
    """
    names = frame.f_locals
    condition, waiter = names.get("self"), names.get("waiter")
    lock: Any = getattr(condition, "_lock", None)
    if waiter is None or type(lock) not in _LOCKS or not lock.acquire(blocking=False):
        yield False
        return
    try:
        yield frame.f_lasti in _WAIT_OFFSETS and waiter in condition._waiters  # type: ignore[union-attr]
    finally:
        lock.release()


def _leave_waiters(work: Work, frame: FrameType, looked_ms: int) -> bool:
    """Takes the calling thread, which waits, off its condition's waiters."""
    with _still_waiting(frame) as waiting:
        if not waiting or _is_clean_up(frame, looked_ms) or not lib.iowq_claim(work._memory):
            return False
        names = frame.f_locals
        names["self"]._waiters.remove(names["waiter"])
        return True


def _wake(work: Work, frame: FrameType, reached_ms: int) -> None:
    """Ends another thread's wait as a notify would, to raise Cancelled after it."""
    with _still_waiting(frame) as waiting:
        if not waiting or _is_clean_up(frame, reached_ms) or not lib.iowq_claim(work._memory):
            return
        names = frame.f_locals
        lib.iowq_poke(work._memory, True)
        names["self"]._waiters.remove(names["waiter"])
        names["waiter"].release()


def reach(work: Work, reached_ms: int) -> None:
    """Called on another thread for work that the signal can't end.

    :param reached_ms: since it was called for this work first.
    """
    memory = work._memory
    if not USE_TRACE:
        lib.iowq_poke(memory, False)
        return
    frame = sys._current_frames().get(lib.iowq_thread_ident(memory))
    if frame is None:
        return
    if frame.f_code is _WAIT_CODE:
        _wake(work, frame, reached_ms)
    elif _may_end_anywhere(work) or frame.f_code.co_filename == _SSL:
        frame.f_trace_opcodes = True  # an empty loop has no lines
        lib.iowq_poke(memory, False)


#: Whether this interpreter has what that takes.
supported = bool(lib.iowq_set_interrupts(id(look), id(reach), id(Cancelled), _BATCH))
if _SSL_HIDES_ERRORS and supported:
    for _library in (b"libssl", b"libcrypto"):
        lib.io_wq_doubt_caller(_library)
