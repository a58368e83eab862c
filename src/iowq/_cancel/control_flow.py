"""Which of a function's instructions come after which: its control flow graph."""

from __future__ import annotations

import dis
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

_JUMPS = frozenset(
    dis.opname[number] for number in (*dis.hasjrel, *dis.hasjabs, *getattr(dis, "hasjump", ()))
)
#: After these, what follows isn't next; nor after jumps that have no condition.
_ENDS = ("RETURN_VALUE", "RETURN_CONST", "RAISE_VARARGS", "RERAISE", "INTERPRETER_EXIT")
_UNCONDITIONAL = frozenset(
    ("JUMP", "JUMP_FORWARD", "JUMP_ABSOLUTE", "JUMP_BACKWARD", "JUMP_BACKWARD_NO_INTERRUPT")
)
_NEVER_INTERRUPTED = "JUMP_BACKWARD_NO_INTERRUPT"


class Flow:
    """The ways through one function's instructions, those of exceptions among them.

    :param handlers: the entries of its exception table, as ``dis`` parses it; up to 3.10
        there is none, and instructions set handlers up.
    """

    def __init__(self, instructions: Sequence[dis.Instruction], handlers: Iterable[Any]) -> None:
        self._steps: dict[int, frozenset[int]] = {}  # without exceptions
        self.jumps_back: set[tuple[int, int]] = set()
        self._names = {instruction.offset: instruction.opname for instruction in instructions}
        self._targets = {i.offset: i.argval for i in instructions if i.opname in _JUMPS}
        self._blocks: dict[int, tuple[int, ...]] | None = None
        offsets = [instruction.offset for instruction in instructions]
        for instruction, following in zip(instructions, [*offsets[1:], None], strict=True):
            self._steps[instruction.offset] = frozenset(self._successors(instruction, following))
        self._next = {offset: set(steps) for offset, steps in self._steps.items()}
        self._previous: dict[int, set[int]] = {}
        for offset, steps in self._steps.items():
            for step in steps:
                self._previous.setdefault(step, set()).add(offset)
        for handler in handlers:
            for offset in offsets[bisect_left(offsets, handler.start) :]:
                if offset >= handler.end:
                    break
                self._next[offset].add(handler.target)

    def _successors(self, instruction: dis.Instruction, following: int | None) -> Iterator[int]:
        name, offset = instruction.opname, instruction.offset
        if name in _JUMPS:
            yield instruction.argval
            if instruction.argval <= offset and name != _NEVER_INTERRUPTED:
                self.jumps_back.add((offset, instruction.argval))
        if following is not None and name not in _UNCONDITIONAL and not name.startswith(_ENDS):
            yield following

    def before(self, offset: int, passing: Collection[int]) -> set[int]:
        """The instructions that it may follow, other than as a handler.

        :param passing: instructions that don't count: those before them do.
        """
        found, todo = set[int](), [offset]
        while todo:
            for other in self._previous.get(todo.pop(), set()) - found:
                found.add(other)
                if other in passing:
                    todo.append(other)
        return found.difference(passing)

    def after(self, offset: int) -> set[int]:
        """The instructions that may follow it, if it raises nothing."""
        return set(self._steps[offset])

    def reachable(self, starts: Iterable[int], until: Collection[int]) -> frozenset[int]:
        """The instructions that may follow, the first among them, up to certain others."""
        found, todo = set(starts), list(starts)
        while todo:
            offset = todo.pop()
            if offset in until:
                continue
            new = self._next[offset] - found
            found |= new
            todo += new
        return frozenset(found)

    def blocks_at(self, offset: int) -> Sequence[int]:
        """Up to 3.10: the handlers that are in force there, innermost first."""
        if self._blocks is None:
            self._blocks = self._find_blocks()
        return self._blocks.get(offset, ())

    def _find_blocks(self) -> dict[int, tuple[int, ...]]:
        found: dict[int, tuple[int, ...]] = {0: ()}
        todo = [0]
        while todo:
            offset = todo.pop()
            blocks, name = found[offset], self._names[offset]
            for step in self._steps[offset]:
                inside = blocks
                if name.startswith("SETUP_") and step != self._targets[offset]:
                    inside = (self._targets[offset], *blocks)
                elif name == "POP_BLOCK":
                    inside = blocks[1:]
                if step not in found:
                    found[step] = inside
                    todo.append(step)
        return found

    def dominates(self, first: int, second: int) -> bool:
        """Whether every way to the second instruction leads through the first."""
        reached, todo = {first, 0}, [0] if first else []
        while todo:
            for offset in self._next[todo.pop()] - reached:
                reached.add(offset)
                todo.append(offset)
        return first == second or second not in reached
