"""File handles do what those of :mod:`io` do, whatever is called in whatever order."""

from __future__ import annotations

import asyncio
import io
import os
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from iowq import files

#: Some span the buffers, some have ends of lines of each kind, and characters of each width.
PIECES = ["a", "\n", "\r", "\r\n", "bc\n", "ü", "€", "\U0001f40d", "x" * 100, "y\n" * 4000]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=6).map("".join)
SIZES = st.one_of(st.none(), st.integers(-1, 12), st.sampled_from([100, 8192, 20_000, 70_000]))
ENCODINGS = ["utf-8", "utf-16", "utf-8-sig", "utf-32-le", "latin-1", "shift_jis", "utf-7"]


class _Files(RuleBasedStateMachine):
    """Two files with the same content: one of io's, one of ours."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(dir="/tmp")
        self.loop = asyncio.new_event_loop()
        self.real: Any = None
        self.ours: Any = None

    @property
    def paths(self) -> list[Path]:
        return [Path(self.folder.name, name) for name in ("real", "ours")]

    def open_both(self, content: bytes, mode: str, **arguments: Any) -> None:
        for path in self.paths:
            path.write_bytes(content)
        real, ours = self.paths
        self.mode = mode
        self.real = real.open(mode, **arguments)
        self.ours = self.run(files.open(ours, mode, **arguments))

    def run(self, operation: Awaitable[Any]) -> Any:
        async def await_it() -> Any:
            return await operation

        return self.loop.run_until_complete(await_it())

    def both(self, call: Callable[[Any], Any]) -> tuple[Any, Any]:
        """What they answer, or the class of the error."""
        answers = []
        for file in (self.real, self.ours):
            try:
                answer = call(file)
                answers.append(self.run(answer) if file is self.ours else answer)
            except (OSError, ValueError) as error:
                answers.append(_kind_of(error))
        return answers[0], answers[1]

    def same(self, call: Callable[[Any], Any]) -> None:
        real, ours = self.both(call)
        assert real == ours
        if real is UnicodeError:  # where that leaves a file isn't said anywhere
            self.both(lambda file: file.seek(0))

    def teardown(self) -> None:
        if self.real:
            self.same(lambda file: file.close())
            real, ours = (path.read_bytes() for path in self.paths)
            assert real == ours
        self.loop.close()
        self.folder.cleanup()


async def _nothing() -> None:
    pass


def _kind_of(error: Exception) -> type:
    for kind in (io.UnsupportedOperation, UnicodeError, OSError):
        if isinstance(error, kind):
            return kind
    return ValueError


class _BinaryFiles(_Files):
    @initialize(
        content=st.binary(max_size=50) | st.binary(max_size=20).map(lambda one: one * 4000),
        mode=st.sampled_from(["rb", "r+b", "w+b", "wb", "a+b", "ab"]),
        buffering=st.sampled_from([-1, -1, -1, 0, 16]),
    )
    def begin(self, content: bytes, mode: str, buffering: int) -> None:
        self.open_both(content, mode, buffering=buffering)
        self.is_raw = buffering == 0

    @rule(size=SIZES)
    def read(self, size: int | None) -> None:
        if size is None and not self.real.readable():
            return  # io says that it is no number
        self.same(lambda file: file.read(size))

    @rule(size=st.integers(0, 20_000))
    def readinto(self, size: int) -> None:
        real, ours = bytearray(size), bytearray(size)
        self.same(lambda file: file.readinto(real if file is self.real else ours))
        assert real == ours

    @rule(size=st.integers(1, 20_000))
    @precondition(lambda self: not self.is_raw)
    def read1(self, size: int) -> None:
        """How many bytes that gives depends on the buffer: but they are the next ones.

        (io's gives wrong ones to who has written just before.)
        """
        self.same(lambda file: file.flush())
        real, ours = self.both(lambda file: file.read1(size))
        if isinstance(real, bytes):
            fewer = min(len(real), len(ours))
            assert real[:fewer] == ours[:fewer]
            assert bool(real) == bool(ours)
            self.real.seek(fewer - len(real), os.SEEK_CUR)
            self.run(self.ours.seek(fewer - len(ours), os.SEEK_CUR))
        else:
            assert real == ours

    @rule(size=SIZES)
    def readline(self, size: int | None) -> None:
        if size == 0 and not self.real.readable():
            return  # io asks nobody
        self.same(lambda file: file.readline(size))

    @rule(hint=st.integers(-1, 30))
    def readlines(self, hint: int) -> None:
        self.same(lambda file: file.readlines(hint))

    @rule(data=st.binary(max_size=20), times=st.sampled_from([1, 1, 1, 1000, 5000]))
    def write(self, data: bytes, times: int) -> None:
        if "a" in self.mode:  # io says of the place what isn't so, before it is written
            self.same(lambda file: file.seek(0, os.SEEK_END))
        self.same(lambda file: file.write(data * times))

    @rule(lines=st.lists(st.binary(max_size=10), min_size=1, max_size=5))
    def writelines(self, lines: list[bytes]) -> None:
        if "a" in self.mode:
            self.same(lambda file: file.seek(0, os.SEEK_END))
        self.same(lambda file: file.writelines(lines))

    @rule(offset=st.integers(-5, 100) | st.sampled_from([8192, 50_000]), whence=st.integers(0, 2))
    def seek(self, offset: int, whence: int) -> None:
        self.same(lambda file: file.seek(offset, whence))

    @rule()
    def tell(self) -> None:
        self.same(lambda file: file.tell())

    @rule(size=st.none() | st.integers(-1, 100))
    def truncate(self, size: int | None) -> None:
        self.same(lambda file: file.truncate(size))

    @rule()
    def flush(self) -> None:
        self.same(lambda file: file.flush())
        real, ours = (path.read_bytes() for path in self.paths)
        assert real == ours

    @rule()
    def peek(self) -> None:
        if not self.is_raw and hasattr(self.real, "peek"):
            real, ours = self.both(lambda file: file.peek())
            if isinstance(real, bytes):
                fewer = min(len(real), len(ours))
                assert real[:fewer] == ours[:fewer]

    @rule()
    def iterate(self) -> None:
        async def ours() -> list[bytes]:
            return [line async for line in self.ours]

        if self.real.readable():
            assert list(self.real) == self.run(ours())

    @invariant()
    def they_are_where_they_should_be(self) -> None:
        if self.real:
            assert self.real.closed == self.ours.closed


class _TextFiles(_Files):
    @initialize(
        content=TEXTS,
        mode=st.sampled_from(["r", "r+", "w+", "w", "a+", "a"]),
        encoding=st.sampled_from(ENCODINGS),
        newline=st.sampled_from([None, "", "\n", "\r", "\r\n"]),
    )
    def begin(self, content: str, mode: str, encoding: str, newline: str | None) -> None:
        self.open_both(
            content.encode(encoding, "replace"),
            mode,
            encoding=encoding,
            newline=newline,
            errors="replace",
        )
        self.cookies = [(0, 0)]

    def begin_to_read(self) -> None:
        """What was written is to be flushed before: else io reads, and then writes it elsewhere."""
        self.same(lambda file: file.flush())

    @rule(size=SIZES)
    def read(self, size: int | None) -> None:
        self.begin_to_read()
        self.same(lambda file: file.read(size))

    @rule(size=SIZES.filter(lambda size: size is not None))
    def readline(self, size: int) -> None:
        self.begin_to_read()
        self.same(lambda file: file.readline(size))

    @rule()
    def readlines(self) -> None:
        """All: in between io can't tell where it is."""
        self.begin_to_read()
        if self.real.readable():
            self.same(lambda file: file.readlines())

    @rule(text=TEXTS)
    def write(self, text: str) -> None:
        """After a read io writes where it has read up to, and not where it says that it is."""
        if "a" in self.mode:
            self.same(lambda file: file.seek(0, os.SEEK_END))
        elif self.real.readable():
            self.both(lambda file: file.seek(self.real.tell()) if file is self.real else _nothing())
        self.same(lambda file: file.write(text))

    @rule()
    def tell(self) -> None:
        """Their places are the same ones, and each takes the other's."""
        cookies = self.both(lambda file: file.tell())
        assert [isinstance(cookie, int) for cookie in cookies] in ([True] * 2, [False] * 2)
        if isinstance(cookies[0], int):
            self.cookies.append(cookies)

    @rule(data=st.data(), crossed=st.booleans())
    def seek(self, data: st.DataObject, crossed: bool) -> None:
        real, ours = data.draw(st.sampled_from(self.cookies))
        if crossed:
            real, ours = ours, real
        self.both(lambda file: file.seek(real if file is self.real else ours))

    @rule()
    def seek_end(self) -> None:
        self.same(lambda file: file.seek(0, os.SEEK_END))

    @rule()
    def truncate(self) -> None:
        """What was read is forgotten: io keeps it, and what is cut off with it."""
        if self.real.readable():
            self.real.seek(self.real.tell())
            self.run(self.ours.seek(self.run(self.ours.tell())))
        position = self.paths[0].stat().st_size // 2
        if position < 4:
            position = 0  # not half a byte order mark, which some decoders keep
        self.same(lambda file: file.flush())
        self.same(lambda file: file.truncate(position))
        self.cookies = [(0, 0)]
        self.same(lambda file: file.seek(0))

    @rule()
    def flush(self) -> None:
        self.same(lambda file: file.flush())
        real, ours = (path.read_bytes() for path in self.paths)
        assert real == ours

    @rule()
    def iterate(self) -> None:
        async def all_of(file: Any) -> list[str]:
            return [line async for line in file]

        self.begin_to_read()
        if self.real.readable():
            self.same(lambda file: list(file) if file is self.real else all_of(file))

    @invariant()
    def newlines(self) -> None:
        if self.real:
            assert self.real.encoding == self.ours.encoding
            assert self.real.errors == self.ours.errors


CALM = settings(
    max_examples=int(os.environ.get("IOWQ_EXAMPLES", "60")),
    stateful_step_count=30,
    deadline=None,
    database=None,
    derandomize="IOWQ_EXAMPLES" not in os.environ,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)
TestBinaryFiles = _BinaryFiles.TestCase
TestBinaryFiles.settings = CALM
TestTextFiles = _TextFiles.TestCase
TestTextFiles.settings = CALM
