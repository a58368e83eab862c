"""Programs of all shapes, made from a grammar, to be cancelled at each of their safepoints.

Each block that a program enters is noted, and so is that it is left. A program ends by
itself after some steps.
"""

from __future__ import annotations

import itertools
import sys
import textwrap
import threading
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from types import CodeType, TracebackType
from typing import TYPE_CHECKING, Any

import iowq
from iowq._cancel import monitoring, policy
from iowq._native import lib

if TYPE_CHECKING:
    from typing_extensions import Self  # typing's own from 3.11 on

#: Returns a number from 0 to below n.
Choose = Callable[[int], int]

FILE_NAME = "<program>"


class Log:
    """What a program uses, and notes its blocks in."""

    def __init__(self) -> None:
        self.held: list[int] = []
        self.lock = threading.Lock()
        self.rlock = threading.RLock()
        self.left = 12  # steps

    def more(self) -> bool:
        self.left -= 1
        return self.left > 0

    def block(self, number: int) -> Block:
        return Block(self, number)

    @contextmanager
    def managed(self, number: int) -> Iterator[int]:
        self.held.append(number)
        try:
            yield number
        finally:
            self.held.remove(number)

    def items(self, number: int) -> Iterator[int]:
        self.held.append(number)
        try:
            yield from range(2)
        finally:
            self.held.remove(number)

    def check(self) -> None:
        assert not self.held, f"entered, and not left: {self.held}"
        assert not self.lock.locked()
        assert self.rlock.acquire(blocking=False)
        self.rlock.release()
        assert sys.exc_info() == (None, None, None)


class Block:
    """A context manager, synchronous and asynchronous, and an asynchronous iterator."""

    def __init__(self, log: Log, number: int) -> None:
        self.log = log
        self.number = number
        self.turns = 0

    def __enter__(self) -> Self:
        self.log.held.append(self.number)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.log.held.remove(self.number)

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(self, *args: object) -> None:
        self.log.held.remove(self.number)

    def __aiter__(self) -> Block:
        return self

    async def __anext__(self) -> int:
        self.turns += 1
        if self.turns > 2:
            raise StopAsyncIteration
        return self.turns

    def __await__(self) -> Iterator[None]:
        yield


# ---- the grammar


class Grammar:
    """Makes a program's text from choices."""

    def __init__(self, choose: Choose) -> None:
        self.choose = choose
        self.numbers = itertools.count(1)
        self.budget = 5 + choose(12)  # compound statements
        self.is_async = choose(5) == 0

    def program(self) -> str:
        body = self.block(0, False)
        prefix = "async " if self.is_async else ""
        return f"{prefix}def program(log):\n    n = 0\n{textwrap.indent(body, '    ')}\n"

    def block(self, depth: int, in_loop: bool) -> str:
        statements = [self.statement(depth, in_loop) for _ in range(1 + self.choose(3))]
        return "\n".join(statements)

    def statement(self, depth: int, in_loop: bool) -> str:
        if depth >= 5 or self.budget <= 0 or self.choose(4) == 0:
            return self.simple(in_loop)
        self.budget -= 1
        kinds: list[Callable[[int, bool], str]] = [*[self.loop] * 3, *[self.held] * 3]
        kinds += [self.branch, self.function, self.comprehension, self.match]
        return kinds[self.choose(len(kinds))](depth, in_loop)

    def simple(self, in_loop: bool) -> str:
        number = next(self.numbers)
        texts = ["n += 1", "len('')", "pass", "log.more()", "n = log.left", "x = [n, n]"]
        texts += [f"with log.block({number}): n += 1", "with log.lock: pass"]
        if self.is_async:
            texts += [f"await log.block({number})"]
        if in_loop:
            texts += ["if n % 3 == 1: break", "if n % 2: continue", "if not log.more(): break"]
        return texts[self.choose(len(texts))]

    def indented(self, depth: int, in_loop: bool) -> str:
        return textwrap.indent(self.block(depth + 1, in_loop), "    ")

    def loop(self, depth: int, _in_loop: bool) -> str:
        number = next(self.numbers)
        heads = [
            "while log.more():",
            "while n >= 0 and log.more():",
            "while True:\n    if not log.more(): break",
            f"k{number} = 0\nwhile True:\n    k{number} += 1\n    if k{number} > 2: break",
            "for x in range(2):",
            "for x in iter(log.more, False):",
            f"for x in log.items({number}):",
            "for x, y in zip(range(3), 'ab'):",
            "for x in (y for y in range(2) if y or log.more()):",
        ]
        if self.is_async:
            heads += [f"async for x in log.block({number}):"]
        # loops that are all in one line have no line of their own to be stopped at
        short = ["while log.more(): pass", "for x in 'abc': n += 1", "n = 9\nwhile n: n -= 3"]
        short += [
            "n = 0\nwhile n < 3: n += 1",
            "n = 0\nwhile n >= 0:\n    n += 1\n    if n > 3: break",
        ]
        short += ["n = 0\nwhile True:\n    n += 1\n    if n < 0 or n > 2: break"]
        if self.choose(3) == 0:
            return short[self.choose(len(short))]
        text = f"{heads[self.choose(len(heads))]}\n{self.indented(depth, True)}"
        if self.choose(5) == 0:
            text += f"\nelse:\n{self.indented(depth, False)}"
        return text

    def held(self, depth: int, in_loop: bool) -> str:
        number, other = next(self.numbers), next(self.numbers)
        body = self.indented(depth, in_loop)
        enter, leave = f"log.held.append({number})", f"log.held.remove({number})"
        kind = self.choose(12)
        heads = [
            f"with log.block({number}):",
            f"with log.block({number}) as b, log.block({other}):",
            "with log.rlock:",
            f"with log.managed({number}):",
            f"with log.block({number}), log.rlock:",
        ]
        if kind < len(heads):
            return f"{heads[kind]}\n{body}"
        if kind == 5 and self.is_async:
            return f"async with log.block({number}):\n{body}"
        if kind == 6:
            return (
                f"{enter}\ntry:\n{body}\nexcept BaseException:\n    {leave}\n    raise\n"
                f"else:\n    {leave}"
                if not in_loop  # `break` would pass by both
                else f"with log.rlock:\n{body}"
            )
        if kind == 7:
            handler = self.indented(depth, in_loop)
            failing = "    if n % 2: raise ValueError\n" if self.choose(2) else ""
            return f"try:\n{failing}{body}\nexcept ValueError:\n{handler}"
        if kind == 8:
            handler = self.indented(depth, in_loop)
            return (
                f"{enter}\ntry:\n    if n % 2: raise KeyError\n{body}\n"
                f"except KeyError as e:\n{handler}\nfinally:\n    {leave}"
            )
        if kind == 9:
            clean_up = self.indented(depth + 2, False)
            return f"{enter}\ntry:\n{body}\nfinally:\n    {leave}\n{clean_up}"
        return f"{enter}\ntry:\n{body}\nfinally:\n    {leave}"

    def branch(self, depth: int, in_loop: bool) -> str:
        text = f"if n % 2 == {self.choose(2)}:\n{self.indented(depth, in_loop)}"
        if self.choose(2):
            text += f"\nelse:\n{self.indented(depth, in_loop)}"
        return text

    def match(self, depth: int, in_loop: bool) -> str:
        return (
            f"match n:\n    case 0 | 1:\n{textwrap.indent(self.indented(depth, in_loop), '    ')}\n"
            f"    case _ if n > 2:\n{textwrap.indent(self.indented(depth, in_loop), '    ')}"
        )

    def function(self, depth: int, _in_loop: bool) -> str:
        name, is_async = f"f{next(self.numbers)}", self.is_async
        self.is_async = False
        body = self.indented(depth, False)
        self.is_async = is_async
        if self.choose(3) == 0:
            return f"def {name}(n):\n    yield n\n{body}\n    yield n\nfor x in {name}(n): n += 1"
        return f"def {name}(n):\n{body}\n    return n\nn += len(str({name}(n)))"

    def comprehension(self, _depth: int, _in_loop: bool) -> str:
        number = next(self.numbers)
        texts = [
            "x = [y for y in range(3)]",
            "x = {y: [z for z in range(y)] for y in range(3)}",
            "n += sum(y for y in range(3) if log.more())",
            f"x = [y for y in log.items({number})]",
            f"with log.block({number}): x = [y for y in range(2)]",
        ]
        return texts[self.choose(len(texts))]


# ---- cancel at each safepoint


def _codes(code: CodeType) -> list[CodeType]:
    inner = [const for const in code.co_consts if isinstance(const, CodeType)]
    return [code, *itertools.chain.from_iterable(map(_codes, inner))]


class Program:
    """A program, compiled; what runs it is a work."""

    def __init__(self, text: str) -> None:
        self.text = text
        code = compile(text, FILE_NAME, "exec", dont_inherit=True)
        self.codes = _codes(code)[1:]
        names: dict[str, Any] = {"__name__": "program"}
        exec(code, names)
        self.function = names["program"]
        self.is_async = text.startswith("async")

    def _run(self, log: Log) -> None:
        result = self.function(log)
        if self.is_async:
            try:
                while True:
                    result.send(None)
            except StopIteration:
                pass
            finally:
                result.close()

    def cancel_at_each_safepoint(self) -> int:
        """To be called by a work. Cancels it twice wherever it comes to a safepoint, each
        time in a new run, and returns how many times that was.
        """
        tried = Counter[Hashable]()
        patience, policy.PATIENCE = policy.PATIENCE, sys.maxsize
        try:
            while self._cancel_where(lambda place: tried[place] < 2, tried):
                pass
        finally:
            policy.PATIENCE = patience
        return sum(tried.values())

    def _cancel_where(self, wanted: Callable[[Hashable], bool], tried: Counter[Hashable]) -> bool:
        """Cancels it at the first safepoint that is wanted; returns whether there was one."""
        log, raised, cancelled = Log(), False, False
        work = iowq.current_work()
        assert work is not None

        def claim(work: iowq.Work) -> bool:  # noqa: ARG001 - as the real one
            nonlocal raised
            place = _place_in_program()
            if not place or raised or not wanted(place):
                return False
            tried[place] += 1
            raised = True
            return True

        real, policy.claim = policy.claim, claim
        try:
            self._arm(work)
            self._run(log)
        except iowq.Cancelled:
            cancelled = True
        finally:
            policy.claim = real
        assert cancelled == raised, "an exception came, or went, unasked"
        log.check()
        return cancelled

    def _arm(self, work: iowq.Work) -> None:
        if policy.USE_TRACE:
            lib.iowq_arm(id(work))
        else:
            monitoring.arm(work, self.codes)


def _place_in_program() -> Hashable:
    """Where the program is: an offset in each of its functions that are being run."""
    place, frame = [], sys._getframe()
    while frame is not None:
        if frame.f_code.co_filename == FILE_NAME:
            place.append((frame.f_code.co_name, frame.f_lasti))
        frame = frame.f_back  # type: ignore[assignment]
    return tuple(place)
