"""What is to be known about a function's code: its loops, handlers and what it holds, by offset."""

from __future__ import annotations

import dis
import itertools
import sys
from collections.abc import Iterator
from types import CodeType
from typing import Any

from .control_flow import Flow
from .holdings import Holdings, Takers

#: Instructions that compilers add.
_CANNOT_FAIL = ("NOP", "JUMP", "EXTENDED_ARG", "NOT_TAKEN")


class Code:
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
        self._holdings = Holdings(instructions, self._flow, self.handlers_at)
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

    def handlers_at(self, offset: int) -> Iterator[int]:
        """Where an exception at offset goes, and then, if nobody catches it, in this function."""
        if not self._handlers:
            yield from self._flow.blocks_at(offset)
        seen = set[int]()
        handler = self._handler(offset)
        while handler is not None and handler not in seen:
            yield handler
            seen.add(handler)
            handler = self._handler(handler)

    def holds(self, position: int, takers: Takers) -> bool:
        """Whether it may have taken something there, by hand, that nobody would give back."""
        return self._holdings.holds(position, takers)

    def keeps_handlers(self, offset: int) -> bool:
        """Whether an exception at offset goes where it should.

        It does if the instruction is in the table, or can fail, or if those
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


_codes: dict[CodeType, Code] = {}
_CODES_MAX = 256


def code_of(code: CodeType) -> Code:
    """Returns what is known about a function's code."""
    known = _codes.get(code)
    if known is None:
        if len(_codes) >= _CODES_MAX:
            _codes.clear()
        known = _codes[code] = Code(code)
    return known
