"""What a function has taken by hand and not given back: locks, connections, files.

``with`` and ``try … finally`` give back by themselves. Between ``pool.acquire()`` and
``pool.release()`` on lines of their own an exception that nobody expects leaves the thing
taken, for good. Which of a function's instructions are between the two is read from its
code: the calls that take and give back are known by their names.
"""

from __future__ import annotations

import dis
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .control_flow import Flow

#: Functions that give back something, by the names that all code uses.
GIVING = frozenset(
    (
        *("__exit__", "__aexit__", "release", "release_lock", "release_conn", "close", "aclose"),
        *("putconn", "_put_conn", "release_connection", "return_connection", "checkin"),
        *("disconnect", "__del__", "terminate", "kill"),
    )
)


#: Functions that take something, by name.
Takers = frozenset[str]

_LOCKS = frozenset(("acquire", "acquire_lock", "__enter__"))
#: In code that is the user's own: a file that is left open there is closed by its end.
OF_USERS: Takers = _LOCKS
#: In code of others.
OF_OTHERS: Takers = _LOCKS | {
    *("open", "getconn", "_get_conn", "get_connection", "_checkout", "checkout"),
}

_NAMES = ("LOAD_METHOD", "LOAD_ATTR", "LOAD_GLOBAL", "LOAD_NAME", "LOAD_SUPER")
_CALLS = ("CALL", "CALL_FUNCTION", "CALL_FUNCTION_KW", "CALL_FUNCTION_EX", "CALL_METHOD", "CALL_KW")


class Holdings:
    """Where in one function something is held.

    :param handlers_at: where an exception at an offset goes, one after the other.
    """

    def __init__(
        self,
        instructions: Sequence[dis.Instruction],
        flow: Flow,
        handlers_at: Callable[[int], Iterable[int]],
    ) -> None:
        self._flow = flow
        self._handlers_at = handlers_at
        self._offsets = [instruction.offset for instruction in instructions]
        self._ends = frozenset(i.offset for i in instructions if i.opname == "POP_EXCEPT")
        self._calls = list(_calls(instructions))  # (offset of the call, name of the function)
        self._gives = frozenset(offset for offset, name in self._calls if name in GIVING)
        self._held: dict[Takers, frozenset[int]] = {}

    def holds(self, position: int, takers: Takers) -> bool:
        """Whether, on some way to position, something was taken that nobody gives back."""
        if not any(name in takers for _, name in self._calls):
            return False
        if takers not in self._held:
            self._held[takers] = self._find(takers)
        offset = self._offsets[max(bisect_right(self._offsets, position) - 1, 0)]
        return offset in self._held[takers] and not any(
            self._gives_back(handler) for handler in self._handlers_at(offset)
        )

    def _find(self, takers: Takers) -> frozenset[int]:
        takes = [offset for offset, name in self._calls if name in takers]
        starts = [step for offset in takes for step in self._flow.after(offset)]
        return self._flow.reachable(starts, until=self._gives)

    def _gives_back(self, handler: int) -> bool:
        """Whether a handler gives something back before it has done with the exception."""
        return not self._gives.isdisjoint(
            self._flow.reachable([handler], until=self._gives | self._ends)
        )


def _calls(instructions: Sequence[dis.Instruction]) -> Iterator[tuple[int, str]]:
    """The calls of named functions: of those named last before each call."""
    name = None
    for instruction in instructions:
        if instruction.opname.startswith(_NAMES):
            name = instruction.argval
        elif instruction.opname in _CALLS and name is not None:
            yield instruction.offset, name
            name = None
