"""Binary handles: what :class:`io.BufferedRandom` and :class:`io.FileIO` do."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from .handle import Handle, in_turn, joined

if TYPE_CHECKING:
    import os

    from typing_extensions import Buffer

    from .._types import LineIterator
    from .kinds import Kind


class BinaryFile(Handle):
    """An open file of bytes. With ``buffering=0`` each read and write is one of the system's."""

    def __init__(
        self, descriptor: int, kind: Kind, name: Any, status: os.stat_result, closes: bool
    ) -> None:
        super().__init__(descriptor, kind, name, status, closes)
        self._front = self._bytes

    def __repr__(self) -> str:
        """Names the file."""
        return f"<iowq.files.BinaryFile name={self._name!r} mode={self.mode!r}>"

    @property
    def mode(self) -> str:
        """As :attr:`io.FileIO.mode`."""
        return self._kind.binary_mode

    def readable(self) -> bool:
        """Whether it can be read."""
        self._check_open()
        return self._kind.reads

    # ---- reading

    async def read(self, size: int | None = -1, /) -> bytes:
        """Reads so many bytes; fewer where the file ends. -1: up to there."""
        if size and size > 0:
            taken = self._bytes.take(size)
            if taken is not None:
                return taken
        return await self._read(-1 if size is None else size)

    @in_turn
    async def _read(self, size: int) -> bytes:
        self._check_reads()
        if size < 0:
            return b"".join(await self._read_to_end())
        if not self._kind.size:
            return await self._read_more(size)
        parts: list[bytes] = []
        missing = size
        try:
            while missing and (data := await self._read_more(missing)):
                parts.append(data)
                missing -= len(data)
        except BaseException:
            self._give_back(parts)
            raise
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def read1(self, size: int = -1, /) -> bytes:
        """Reads up to so many bytes, with one read of the system's at most."""
        return await self._read_once(size if size >= 0 else self._kind.size)

    @in_turn
    async def _read_once(self, size: int) -> bytes:
        self._check_reads()
        return await self._read_more(size) if size else b""

    async def readall(self) -> bytes:
        """Reads until the file ends."""
        return await self.read(-1)

    async def readinto(self, buffer: Buffer, /) -> int:
        """Reads into this memory, until it is full or the file ends. Returns how many bytes."""
        memory = memoryview(buffer).cast("B")
        data = await self.read(len(memory))
        memory[: len(data)] = data
        return len(data)

    async def peek(self, _size: int = 0, /) -> bytes:
        """Returns bytes that come next, at least one unless the file ends, and leaves them."""
        return await self._peek()

    @in_turn
    async def _peek(self) -> bytes:
        self._check_reads()
        if not self._bytes:
            self._give_back([await self._read_more(1)])
        return self._bytes.data[self._bytes.begin :]

    async def readline(self, size: int | None = -1, /) -> bytes:
        r"""Reads up to the next ``\n``, or so many bytes."""
        if size is None or size < 0:
            line = self._bytes.line()
            if line is not None:
                return line
        return await self._read_line(-1 if size is None else size)

    @in_turn
    async def _read_line(self, size: int) -> bytes:
        self._check_reads()
        return await self._next_line(size)

    async def _next_line(self, size: int = -1) -> bytes:
        parts: list[bytes] = []
        try:
            while size and not (parts and parts[-1].endswith(b"\n")):
                part = await self._read_part_of_line(size)
                if not part:
                    break
                parts.append(part)
                size = max(size - len(part), 0) if size >= 0 else size
        except BaseException:
            self._give_back(parts)
            raise
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def _read_part_of_line(self, size: int) -> bytes:
        if not self._bytes:
            await self._look_ahead()
        buffer = self._bytes
        count = buffer.data.find(b"\n", buffer.begin) + 1 - buffer.begin
        if count <= 0:
            count = len(buffer)
        part = buffer.cut(count if size < 0 else min(count, size))
        if not self._kind.size:
            self._forget_ahead()
        return part

    async def _look_ahead(self) -> None:
        """Reads without a buffer, too, if what isn't wanted can be read again."""
        wanted = 1 if self._kind.size or not self._has_positions else io.DEFAULT_BUFFER_SIZE
        self._give_back([await self._read_more(wanted)])

    async def readlines(self, hint: int | None = -1, /) -> list[bytes]:
        """Reads all lines, or until they have so many bytes."""
        return await self._read_lines(hint or -1)

    @in_turn
    async def _read_lines(self, hint: int) -> list[bytes]:
        self._check_reads()
        lines: list[bytes] = []
        size = 0
        if hint < 0 and self._kind.size:
            return io.BytesIO(b"".join(await self._read_to_end())).readlines()
        while (hint < 0 or size <= hint) and (line := await self._next_line()):
            lines.append(line)
            size += len(line)
        return lines

    def __aiter__(self) -> LineIterator[bytes]:
        """Gives its lines."""
        self._check_open()
        return self._bytes.lines(self.__anext__)

    async def __anext__(self) -> bytes:
        """Returns the next line."""
        if line := await self.readline():
            return line
        raise StopAsyncIteration

    # ---- writing

    async def write(self, data: Buffer, /) -> int:
        """Takes all of it; what is written behind is told of by :meth:`flush`.

        :raises OSError: what was written before couldn't be; this has not been taken.
        """
        if type(data) is bytes and self._has_room(len(data)):
            self._add(data)
            return len(data)
        return await self._write(data)

    @in_turn
    async def _write(self, data: Buffer) -> int:
        self._check_writes()
        return await self._put(_bytes_of(data))

    @in_turn
    async def writelines(self, lines: Iterable[Buffer], /) -> None:
        """Writes one after the other."""
        self._check_writes()
        for part in joined(b"", lines):
            await self._put(part)

    @in_turn
    async def flush(self) -> None:
        """Waits until all is written.

        :raises OSError: something couldn't be; it is kept, and tried again the next time.
        """
        await self._flush_bytes()

    @in_turn
    async def truncate(self, size: int | None = None, /) -> int:
        """Makes the file so long, or end where the handle is; returns how long that is."""
        self._check_writes()
        return await self._truncate(await self._tell_bytes() if size is None else size)

    # ---- positions

    @in_turn
    async def tell(self) -> int:
        """Returns where the handle is."""
        return await self._tell_bytes()

    @in_turn
    async def seek(self, offset: int, whence: int = 0, /) -> int:
        """As :meth:`io.BufferedRandom.seek`."""
        return await self._seek_bytes(offset, whence)

    def detach(self) -> io.BufferedIOBase:
        """Writes what isn't written, while the thread waits, and returns a file of io's."""
        return self._detach()


def _bytes_of(data: Buffer) -> bytes | memoryview:
    return data if type(data) is bytes else memoryview(data).cast("B")
