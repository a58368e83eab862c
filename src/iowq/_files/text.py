"""Text handles: what :class:`io.TextIOWrapper` does."""

from __future__ import annotations

import codecs
import io
import os
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from .._types import ReadBuffer
from . import cookies
from .handle import Handle, in_turn, joined

if TYPE_CHECKING:
    from .._types import LineIterator
    from .kinds import Kind, TextKind

_CHUNK = 1 << 13  # bytes that are decoded at once, as io does
_MOST_BYTES = 16  # that a character makes, or what an encoding begins with


class _Snapshot(NamedTuple):
    """What the decoder was before the text that is at hand, and what it was fed."""

    flags: int
    fed: bytes


class TextFile(Handle):
    """An open file of text."""

    def __init__(
        self, descriptor: int, kind: Kind, name: Any, status: os.stat_result, closes: bool
    ) -> None:
        super().__init__(descriptor, kind, name, status, closes)
        assert kind.text
        self._text: TextKind = kind.text
        is_terminal = kind.line_buffering is None and os.isatty(descriptor)
        self._line_buffering = bool(kind.line_buffering) or is_terminal
        self._chars = ReadBuffer("", self._text.newline in (None, "\n"))
        self._front = self._chars
        self._decoder = _make_decoder(self._text)
        self._snapshot: _Snapshot | None = None
        self._has_read = False  # since the latest write
        self._taken: list[bytes] = []  # by the operation that is under way
        self._encoder = codecs.getincrementalencoder(self._text.encoding)(self._text.errors)
        if self._has_positions:
            self._reset_encoder(self._offset)

    def __repr__(self) -> str:
        """Names the file."""
        return (
            f"<iowq.files.TextFile name={self._name!r} mode={self.mode!r}"
            f" encoding={self.encoding!r}>"
        )

    @property
    def mode(self) -> str:
        """That it was opened with."""
        return self._kind.mode

    @property
    def encoding(self) -> str:
        """As :attr:`io.TextIOWrapper.encoding`."""
        return self._text.encoding

    @property
    def errors(self) -> str:
        """As :attr:`io.TextIOWrapper.errors`."""
        return self._text.errors

    @property
    def line_buffering(self) -> bool:
        """Whether it is flushed after each line."""
        return self._line_buffering

    @property
    def newlines(self) -> str | tuple[str, ...] | None:
        """The ends of lines that have been read so far."""
        return getattr(self._decoder, "newlines", None)

    async def readable(self) -> bool:
        """Whether it can be read."""
        self._check_open()
        return self._kind.reads

    # ---- reading

    async def read(self, size: int | None = -1, /) -> str:
        """Reads so many characters; fewer where the file ends. -1: up to there."""
        if size and size > 0:
            taken = self._chars.take(size)
            if taken is not None:
                return taken
        return await self._read(-1 if size is None else size)

    @in_turn
    async def _read(self, size: int) -> str:
        self._check_reads()
        if size < 0:
            return await self._read_all()
        return await self._restoring(self._read_some, size)

    async def _read_all(self) -> str:
        self._has_read = True
        data = b"".join(await self._read_to_end())
        text = self._chars.cut(-1) + self._decoder.decode(data, True)
        self._forget_text()
        return text

    async def _read_some(self, size: int) -> str:
        parts = [self._chars.cut(size)]
        size -= len(parts[0])
        while size and await self._read_chunk():
            parts.append(self._chars.cut(size))
            size -= len(parts[-1])
        parts.append(self._chars.cut(size))  # what the decoder gave at the end
        return "".join(parts)

    async def readline(self, size: int | None = -1, /) -> str:
        """Reads up to the end of the line, or so many characters."""
        if size is None or size < 0:
            line = self._chars.line()
            if line is not None:
                return line
        return await self._read_line(-1 if size is None else size)

    @in_turn
    async def _read_line(self, size: int) -> str:
        self._check_reads()
        return await self._restoring(self._next_line, size)

    async def _next_line(self, size: int = -1) -> str:
        line, is_whole = self._take_of_line("", size)
        while not is_whole:
            goes_on = await self._read_chunk()
            part, is_whole = self._take_of_line(line[-1:], size - len(line) if size >= 0 else -1)
            line += part
            is_whole = is_whole or not (goes_on or len(self._chars))
        return line

    def _take_of_line(self, before: str, size: int) -> tuple[str, bool]:
        """Takes what is here of a line. Returns it, and whether that is all that was wanted.

        :param before: the last character of what has been taken.
        """
        buffer = self._chars
        end = _end_of_line(self._text.newline, before, buffer.data, buffer.begin)
        count = end - buffer.begin if end else len(buffer)
        if 0 <= size <= count:
            return buffer.cut(size), True
        return buffer.cut(count), bool(end)

    async def readlines(self, hint: int | None = -1, /) -> list[str]:
        """Reads all lines, or until they have so many characters."""
        return await self._read_lines(hint or -1)

    @in_turn
    async def _read_lines(self, hint: int) -> list[str]:
        self._check_reads()
        if hint < 0:
            return _split(self._text.newline, await self._read_all())
        lines: list[str] = []
        size = 0
        while size <= hint:
            line = await self._restoring(self._next_line, -1)
            if not line:
                break
            lines.append(line)
            size += len(line)
        return lines

    def __aiter__(self) -> LineIterator[str]:
        """Gives its lines."""
        self._check_open()
        return self._chars.lines(self.__anext__)

    async def __anext__(self) -> str:
        """Returns the next line."""
        if line := await self.readline():
            return line
        raise StopAsyncIteration

    async def _read_chunk(self) -> bool:
        """Has the next chunk at hand, instead of what is there. Returns whether there was one."""
        self._has_read = True
        held, flags = self._decoder.getstate()
        data = await self._read_more(_CHUNK)
        self._taken.append(data)
        text = self._decoder.decode(data, not data)
        self._snapshot = _Snapshot(flags, held + data)
        self._chars.fill(text)
        return bool(data)

    async def _restoring(self, read: Any, size: int) -> str:
        """Calls it; and if that fails or is cancelled, all is as before."""
        before = self._snapshot, self._chars.data, self._chars.begin, self._decoder.getstate()
        self._taken.clear()
        try:
            text: str = await read(size)
        except UnicodeError:
            raise  # the next one goes on behind it, as in io
        except BaseException:
            self._snapshot, data, begin, state = before
            self._chars.fill(data)
            self._chars.begin = begin
            self._decoder.setstate(state)
            self._give_back(self._taken)
            raise
        return text

    def _forget_text(self) -> None:
        self._chars.fill("")
        self._snapshot = None

    # ---- writing

    async def write(self, text: str, /) -> int:
        """Takes all of it; what is written behind is told of by :meth:`flush`.

        After a read it goes where :meth:`tell` says.

        :raises OSError: what was written before couldn't be; this has not been taken.
        """
        size = _MOST_BYTES * len(_checked(text)) + _MOST_BYTES
        if self._has_read or self._line_buffering or not self._has_room(size):
            return await self._write(text)
        self._add(self._encode(text))
        return len(text)

    @in_turn
    async def _write(self, text: str) -> int:
        self._check_writes()
        await self._put_text(text)
        return len(text)

    async def _put_text(self, text: str) -> None:
        await self._writes.get_ready()
        await self._forget_read()
        await self._put(self._encode(text))
        if self._line_buffering and ("\n" in text or "\r" in text):
            await self._flush_bytes()

    def _encode(self, text: str) -> bytes:
        if self._text.newline in ("\r", "\r\n"):
            text = text.replace("\n", self._text.newline)
        return self._encoder.encode(text)

    async def _forget_read(self) -> None:
        """Before a write: the file is where tell() says, and nothing is at hand of it."""
        if self._has_read and self._has_positions:
            await self._seek(await self._tell())
            self._has_read = False
            self._forget_text()
            self._decoder.reset()
            self._reset_encoder(await self._tell_bytes())

    @in_turn
    async def writelines(self, lines: Iterable[str], /) -> None:
        """Writes one after the other."""
        self._check_writes()
        for part in joined("", lines):
            await self._put_text(part)

    @in_turn
    async def flush(self) -> None:
        """Waits until all is written.

        :raises OSError: something couldn't be; it is kept, and tried again the next time.
        """
        await self._flush_bytes()

    @in_turn
    async def truncate(self, size: int | None = None, /) -> int:
        """Makes the file so many bytes long, or end where the handle is."""
        self._check_writes()
        if size is None:
            await self._forget_read()
            size = await self._tell_bytes()
        return await self._truncate(size)

    # ---- positions

    @in_turn
    async def tell(self) -> int:
        """Returns a number for :meth:`seek`; see :meth:`io.TextIOWrapper.tell`."""
        return await self._tell()

    async def _tell(self) -> int:
        position = await self._tell_bytes()
        if self._snapshot is None:
            return position
        flags, fed = self._snapshot
        start = cookies.Cookie(position - len(fed), flags)
        return cookies.find(self._decoder, start, fed, self._chars.begin)

    @in_turn
    async def seek(self, cookie: int, whence: int = 0, /) -> int:
        """As :meth:`io.TextIOWrapper.seek`."""
        if whence == os.SEEK_SET:
            if cookie < 0:
                raise ValueError(f"negative seek position {cookie!r}")
            return await self._seek(cookie)
        if whence not in (os.SEEK_CUR, os.SEEK_END):
            raise ValueError(f"invalid whence ({whence}, should be 0, 1 or 2)")
        if cookie:
            name = "cur" if whence == os.SEEK_CUR else "end"
            raise io.UnsupportedOperation(f"can't do nonzero {name}-relative seeks")
        if whence == os.SEEK_CUR:
            return await self._seek(await self._tell())
        return await self._seek_end()

    async def _seek_end(self) -> int:
        position = await self._seek_bytes(0, os.SEEK_END)
        self._forget_text()
        self._decoder.reset()
        self._reset_encoder(position)
        return position

    async def _seek(self, number: int) -> int:
        cookie = cookies.unpack(number)
        await self._seek_bytes(cookie.position, os.SEEK_SET)
        self._forget_text()
        if number:
            self._decoder.setstate((b"", cookie.flags))
            self._snapshot = _Snapshot(cookie.flags, b"")
            self._has_read = True
        else:
            self._decoder.reset()
        if cookie.skipped:
            await self._skip(cookie)
        self._reset_encoder(number)
        return number

    async def _skip(self, cookie: cookies.Cookie) -> None:
        data = b""
        while len(data) < cookie.fed and (more := await self._read_more(cookie.fed - len(data))):
            data += more
        self._chars.fill(self._decoder.decode(data, cookie.is_end))
        self._snapshot = _Snapshot(cookie.flags, data)
        if len(self._chars) < cookie.skipped:
            raise OSError("can't restore logical file position")
        self._chars.begin = cookie.skipped

    def _reset_encoder(self, position: int) -> None:
        """Only at the file's begin a byte order mark is written."""
        with suppress(LookupError):
            if position:
                self._encoder.setstate(0)
            else:
                self._encoder.reset()

    def detach(self) -> io.BufferedIOBase:
        """Writes what isn't written, while the thread waits, and returns a file of io's."""
        return self._detach()


def _make_decoder(text: TextKind) -> cookies.Decoder:
    decoder = codecs.getincrementaldecoder(text.encoding)(text.errors)
    if text.newline:
        return decoder
    return io.IncrementalNewlineDecoder(decoder, translate=text.newline is None)


def _end_of_line(newline: str | None, before: str, text: str, begin: int) -> int:
    """Returns where the line ends, or 0."""
    if newline == "":
        ends = [end for end in (text.find("\n", begin), text.find("\r", begin)) if end >= 0]
        if not ends:
            return 0
        end = min(ends)
        return end + (2 if text.startswith("\r\n", end) else 1)
    if newline == "\r\n" and before == "\r" and text.startswith("\n", begin):
        return begin + 1
    newline = newline or "\n"
    end = text.find(newline, begin)
    return end + len(newline) if end >= 0 else 0


def _split(newline: str | None, text: str) -> list[str]:
    """Returns the lines."""
    if newline in ("\r", "\r\n"):
        *lines, rest = text.split(newline)
        return [line + newline for line in lines] + [rest] * bool(rest)
    return io.StringIO(text, newline="" if newline == "" else "\n").readlines()


def _checked(text: str) -> str:
    if isinstance(text, str):
        return text
    raise TypeError(f"write() argument must be str, not {type(text).__name__}")
