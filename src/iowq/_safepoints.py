"""Safepoints: where in Python code an exception may be raised that nobody there expects.

Not between ``lock.acquire()`` and ``try``, not while a ``with`` is being entered
or left, not in the middle of what the standard library must do as a whole. Good
places are the beginning of a function, of which nothing has been done yet, and
the way back to the beginning of a loop, when one turn is done.
"""

from __future__ import annotations

import contextlib
import dis
import gc
import itertools
import os
import queue
import sys
import sysconfig
import threading
import weakref
from collections.abc import Iterator
from types import CodeType, FrameType
from typing import Any

from ._flow import Flow

#: Functions that give back something, or take it, by the names that all code uses.
_GIVING = frozenset(("__exit__", "__aexit__", "__del__", "release", "close", "aclose"))
_PAIRED = _GIVING | {"__enter__", "__aenter__", "acquire"}
#: Functions of code whose steps belong together that have done nothing yet while they
#: wait for a lock. (Others may be setting the result that somebody waits for.)
_WAITING = frozenset(
    (
        *("__enter__", "acquire", "wait", "wait_for", "get", "put", "join", "result"),
        *("exception", "enter_context", "_wait_for_tstate_lock"),
    )
)

_PACKAGE = str(os.path.dirname(__file__)) + os.sep  # noqa: PTH120
_LIBRARY = (
    sysconfig.get_path("stdlib") + os.sep,
    sysconfig.get_path("platstdlib") + os.sep,
    "<frozen ",
)
#: Whose steps belong together: half of them would break other threads.
_WHOLE = (
    threading.__file__,
    queue.__file__,
    contextlib.__file__,
    os.path.join(sysconfig.get_path("stdlib"), "concurrent" + os.sep),  # noqa: PTH118
    os.path.join(sysconfig.get_path("stdlib"), "multiprocessing" + os.sep),  # noqa: PTH118
    weakref.__file__,
    os.path.join(sysconfig.get_path("stdlib"), "_weakrefset.py"),  # noqa: PTH118
    "<frozen importlib",
)


def is_ours(code: CodeType) -> bool:
    """Whether it is this package's own code, which nothing must interrupt."""
    return code.co_filename.startswith(_PACKAGE)


def is_library(code: CodeType) -> bool:
    """Whether it is the standard library's."""
    name = code.co_filename
    return name.startswith(_LIBRARY) and "-packages" + os.sep not in name


def is_whole(code: CodeType) -> bool:
    """Whether its steps must never be torn apart."""
    return code.co_filename.startswith(_WHOLE)


def is_paired(code: CodeType) -> bool:
    """Whether it takes or gives back something."""
    return code.co_name in _PAIRED


def stack(frame: FrameType | None) -> Iterator[CodeType]:
    """The work's functions, from the innermost on."""
    while frame is not None and not is_ours(frame.f_code):
        yield frame.f_code
        frame = frame.f_back


def is_inside_paired(frame: FrameType) -> bool:
    """Whether something is being taken or given back, at any depth."""
    return any(is_paired(code) for code in stack(frame))


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
        caller = current.f_back
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
    return not any(
        is_whole(code) and (code.co_name not in _WAITING or code.co_filename.startswith("<frozen "))
        for code in stack(frame)
    )


#: Instructions that compilers add.
_CANNOT_FAIL = ("NOP", "JUMP", "EXTENDED_ARG", "NOT_TAKEN")


class _Code:
    """What is to be known about a function's code, by offset."""

    def __init__(self, code: CodeType) -> None:
        self.start = 0  # of the first line
        instructions = list(dis.get_instructions(code))
        handlers: list[Any] = getattr(dis, "_parse_exception_table", lambda _code: [])(code)
        self._handlers = handlers
        self._cannot_fail = frozenset(
            instruction.offset
            for instruction in instructions
            if instruction.opname.startswith(_CANNOT_FAIL)
        )
        self._finals = _final_offsets(instructions, handlers)
        self._flow = Flow(instructions, handlers)
        self._loop_ends: dict[tuple[int, int], bool] = {}
        for before, instruction in itertools.pairwise(instructions):
            if before.opname in ("RESUME", "GEN_START"):
                self.start = instruction.offset
                break

    def is_loop_end(self, offset: int, target: int) -> bool:
        """Whether a jump leads back to the beginning of a loop that it is in."""
        jump = (offset, target)
        if jump not in self._loop_ends:
            known = jump in self._flow.jumps_back and self._flow.dominates(target, offset)
            self._loop_ends[jump] = known
        return self._loop_ends[jump]

    def is_loop_head(self, position: int) -> bool:
        """Whether a loop's turns begin there."""
        return any(
            target == position and self.is_loop_end(offset, target)
            for offset, target in self._flow.jumps_back
        )

    def has_holes(self) -> bool:
        """Whether there is a loop at the beginning of which handlers aren't found."""
        return any(
            not self.keeps_handlers(target) and self.is_loop_end(offset, target)
            for offset, target in self._flow.jumps_back
        )

    def _handler(self, offset: int) -> int | None:
        """Where an exception at offset goes; None: out of the function. 3.11 and newer."""
        return next((h.target for h in self._handlers if h.start <= offset < h.end), None)

    def keeps_handlers(self, offset: int) -> bool:
        """Whether an exception at offset goes where it should.

        It does if the instruction has a place in the table, or can fail, or if those
        before it have no handler either.
        """
        if offset not in self._cannot_fail or self._handler(offset) is not None:
            return True
        before = self._flow.before(offset, self._cannot_fail)
        return all(self._handler(other) is None for other in before)

    def is_in_finally(self, offset: int) -> bool:
        """Whether it is in a `finally` block, entered without an exception."""
        return offset in self._finals


#: Where the handler of an `except` or a `with` begins, up to 3.10.
_OTHER_HANDLERS = ("DUP_TOP", "POP_TOP", "WITH_EXCEPT_START")


def _final_offsets(instructions: list[dis.Instruction], handlers: list[Any]) -> frozenset[int]:
    """The `finally` blocks' offsets, but for those that run while an exception is handled.

    The compiler makes copies of such a block: one that handles exceptions, and others
    for those who come without, which are all made of the same text.
    """
    handling = set[int]()
    for start, end in _handling_ranges(instructions, handlers):
        handling.update(range(start, end))
    texts, line = list[object](), None
    for instruction in instructions:
        line = instruction.starts_line or line
        texts.append(getattr(instruction, "positions", line))
    handled = {t for i, t in zip(instructions, texts, strict=True) if i.offset in handling}
    handled -= {text for text in handled if getattr(text, "lineno", text) is None}
    ends = [instruction.offset for instruction in instructions[1:]]
    return frozenset(
        offset
        for instruction, text, end in zip(instructions, texts, ends, strict=False)
        if text in handled and instruction.offset not in handling
        for offset in range(instruction.offset, end)  # its caches: a call is at the last one
    )


def _handling_ranges(
    instructions: list[dis.Instruction], handlers: list[Any]
) -> Iterator[tuple[int, int]]:
    """Where exceptions are handled, but maybe for the handlers of `except` and `with`."""
    opnames = {instruction.offset: instruction.opname for instruction in instructions}
    starts: dict[int, int] = {}  # by the offset of the code that ends the handling
    for handler in handlers:
        if handler.lasti and opnames[handler.target] == "COPY":
            starts[handler.target] = min(handler.start, starts.get(handler.target, handler.start))
    for end, start in starts.items():
        if opnames.get(start + 2) != "WITH_EXCEPT_START":
            yield start, end
    if sys.version_info >= (3, 11):
        return
    for setup in instructions:
        if setup.opname != "SETUP_FINALLY" or opnames[setup.argval] in _OTHER_HANDLERS:
            continue
        open_handlers = 1
        for instruction in instructions:
            if instruction.offset >= setup.argval and open_handlers:
                open_handlers += instruction.opname.startswith("SETUP_")
                open_handlers -= instruction.opname == "RERAISE"
                end = instruction.offset
        yield setup.argval, end


_codes: dict[CodeType, _Code] = {}
_CODES_MAX = 256


def _code_of(code: CodeType) -> _Code:
    known = _codes.get(code)
    if known is None:
        if len(_codes) >= _CODES_MAX:
            _codes.clear()
        known = _codes[code] = _Code(code)
    return known


def is_loop_end(code: CodeType, offset: int, target: int) -> bool:
    """Whether the jump from offset to target ends a loop's turn.

    Not all that go back do: the handlers of exceptions stand at a function's end, and jump
    back to what follows.
    """
    return _code_of(code).is_loop_end(offset, target)


def is_turn_or_start(code: CodeType, last: int | None, position: int) -> bool:
    """Whether a frame that is about to go on at position begins, or begins a loop's next turn.

    :param last: where it was before, if that was seen.
    """
    known = _code_of(code)
    if position <= known.start:
        return True
    return last is not None and position <= last and known.is_loop_head(position)


def keeps_handlers(code: CodeType, position: int) -> bool:
    """Whether an exception that is raised at position finds the handlers that are in force.

    Compilers add instructions that can't fail, and leave them out of the table of handlers.
    """
    return _code_of(code).keeps_handlers(position)


def has_holes(code: CodeType) -> bool:
    """Whether there is a loop at the beginning of which handlers aren't found."""
    return _code_of(code).has_holes()


def is_inside_finally(frame: FrameType, position: int) -> bool:
    """Whether a `finally` block is being run, at any depth, other than by an exception.

    :param position: where in its code the frame is.
    """
    current: FrameType | None = frame
    while current is not None and not is_ours(current.f_code):
        if _code_of(current.f_code).is_in_finally(position):
            return True
        current = current.f_back
        position = current.f_lasti if current is not None else 0
    return False


def is_handling() -> bool:
    """Whether the calling thread handles an exception: its clean-up may be running."""
    return sys.exc_info()[1] is not None
