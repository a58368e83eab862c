"""Safepoints: where in Python code an exception may be raised that nobody there expects.

Not between ``lock.acquire()`` and ``try``, not while a ``with`` is being entered
or left, not in the middle of what the standard library must do as a whole. Good
ones are the beginning of a function, of which nothing has been done yet, and
the way back to the beginning of a loop, when one turn is done.
"""

from __future__ import annotations

import dis
import gc
import sys
import weakref
from collections.abc import Collection, Iterator
from concurrent.futures import _base
from types import CodeType, FrameType

from .code import code_of
from .holdings import OF_OTHERS, OF_USERS
from .owners import Owner, caller_of, is_ours, is_whole, owner_of

#: Functions that give back something, or take it, by the names that all code uses.
_GIVING = frozenset(("__exit__", "__aexit__", "__del__", "release", "close", "aclose"))
_PAIRED = _GIVING | {"__enter__", "__aenter__", "acquire"}
#: Functions of code whose steps belong together that have done nothing yet while they
#: wait for a lock. (Others may be setting the result that somebody waits for.)
_WAITING = frozenset(
    (
        *("__enter__", "acquire", "wait", "wait_for", "get", "put", "join", "result"),
        *("exception", "enter_context", "_wait_for_tstate_lock", "_enter", "_wait"),
        *("as_completed", "result_iterator", "_result_or_cancel", "map", "apply", "next"),
        *("starmap", "shutdown"),
    )
)
#: Takes several locks: half of them must not stay locked.
_TAKES_SEVERAL = _base._AcquireFutures.__enter__.__code__


def is_paired(code: CodeType) -> bool:
    """Whether it takes or gives back something."""
    return code.co_name in _PAIRED


def stack(frame: FrameType | None) -> Iterator[CodeType]:
    """The work's functions, from the innermost on."""
    while frame is not None and not is_ours(frame.f_code):
        yield frame.f_code
        frame = caller_of(frame)


def is_inside_paired(frame: FrameType) -> bool:
    """Whether something is being taken or given back, at any depth."""
    return any(is_paired(code) for code in stack(frame))


def holds_something(frame: FrameType, position: int, users: Collection[str]) -> bool:
    """Whether something was taken by hand, at any depth, that would never be given back.

    :param position: where in its code the frame is.
    :param users: packages that count as the user's.
    """
    current: FrameType | None = frame
    while current is not None and not is_ours(current.f_code):
        takers = OF_USERS if owner_of(current, users) is Owner.USER else OF_OTHERS
        if code_of(current.f_code).holds(position, takers):
            return True
        current = caller_of(current)
        position = current.f_lasti if current is not None else 0
    return False


def is_called_by_user(frame: FrameType, users: Collection[str]) -> bool:
    """Whether a function was called by the user's code, or is a work's own."""
    caller = caller_of(frame)
    return caller is None or owner_of(caller, users) in (Owner.USER, Owner.OURS)


def is_inside_import(frame: FrameType) -> bool:
    """Whether a module is being imported: half of one may stay, without the other half."""
    return any(code.co_filename.startswith("<frozen importlib") for code in stack(frame))


def is_inside_giving(frame: FrameType) -> bool:
    """Whether something is being given back, at any depth."""
    return any(code.co_name in _GIVING for code in stack(frame))


#: What can't call a Python function, unless by the end of an object's life.
_CANNOT_CALL = ("STORE_FAST", "STORE_DEREF", "DELETE_", "POP_", "RESUME", "JUMP_", "RETURN_")


def is_in_callback(frame: FrameType) -> bool:
    """Whether, at any depth, the interpreter called for an object that ended: a finalizer,
    or a weak reference's callback. It would swallow an exception from there.
    """
    current: FrameType | None = frame
    of_collections = [getattr(callback, "__code__", None) for callback in gc.callbacks]
    while current is not None and not is_ours(current.f_code):
        caller = caller_of(current)
        if current.f_code in of_collections:
            return True
        if (caller is not None and _cannot_call(caller)) or _got_dead_reference(current):
            return True
        current = caller
    return False


def _cannot_call(caller: FrameType) -> bool:
    """Whether the instruction there calls functions for objects that end only."""
    code = caller.f_code
    if is_ours(code):
        return False
    name = dis.opname[code.co_code[max(caller.f_lasti, 0)]]
    return name.startswith(_CANNOT_CALL) or code.co_filename == weakref.__file__


def _got_dead_reference(frame: FrameType) -> bool:
    """Whether it is a function as a collection calls it, at any instruction."""
    code = frame.f_code
    if not 1 <= code.co_argcount <= 2:
        return False
    arguments = [frame.f_locals.get(name) for name in code.co_varnames[: code.co_argcount]]
    return any(isinstance(value, weakref.ref) and value() is None for value in arguments)


def may_leave_lock(frame: FrameType) -> bool:
    """Whether a wait for a lock may fail: nobody has done a first half before it."""
    return not any(is_whole(code) and not _may_fail(code) for code in stack(frame))


def _may_fail(code: CodeType) -> bool:
    """Whether a function of code whose steps belong together can fail while it waits."""
    return (
        code.co_name in _WAITING
        and code is not _TAKES_SEVERAL
        and not code.co_filename.startswith("<frozen ")
    )


def is_loop_end(code: CodeType, offset: int, target: int) -> bool:
    """Whether the jump from offset to target ends a loop's turn.

    Not all that go back do: the handlers of exceptions stand at a function's end, and jump
    back to what follows.
    """
    return code_of(code).is_loop_end(offset, target)


def is_start(code: CodeType, position: int) -> bool:
    """Whether nothing of a function has been done yet at position."""
    return position <= code_of(code).start


def is_turn(code: CodeType, last: int | None, position: int) -> bool:
    """Whether a frame that is about to go on at position begins a loop's next turn.

    :param last: where it was before, if that was seen.
    """
    return last is not None and position <= last and code_of(code).is_loop_head(position)


def keeps_handlers(code: CodeType, position: int) -> bool:
    """Whether an exception that is raised at position finds the handlers that are in force.

    Compilers add instructions that can't fail, and leave them out of the table of handlers.
    """
    return code_of(code).keeps_handlers(position)


def has_holes(code: CodeType) -> bool:
    """Whether there is a loop at the beginning of which handlers aren't found."""
    return code_of(code).has_holes()


def is_inside_finally(frame: FrameType, position: int) -> bool:
    """Whether a `finally` block is being run, at any depth, other than by an exception.

    :param position: where in its code the frame is.
    """
    current: FrameType | None = frame
    while current is not None and not is_ours(current.f_code):
        if code_of(current.f_code).is_in_finally(position):
            return True
        current = caller_of(current)
        position = current.f_lasti if current is not None else 0
    return False


def is_handling() -> bool:
    """Whether the calling thread handles an exception: its clean-up may be running."""
    return sys.exc_info()[1] is not None
