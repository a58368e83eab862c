"""What text and binary handles have in common: a descriptor, whose turn it is, and bytes.

The operations of a handle are done one after the other, in the order of the calls. One that was
cancelled, and can't be ended, has its turn until it has completed. So no operation is under way
when the descriptor is closed: its number may be another file's then.

A file that has positions is read and written at the handle's own; that of the descriptor follows
when the handle is flushed.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import io
import itertools
import os
import stat
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar, cast

from .._native import lib
from .._types import Operation, ReadBuffer
from .buffer import STREAM, WriteBehind
from .order import order_of
from .perform import EMPTY_PATH, Completion, begin, submit_call, wait_for

if TYPE_CHECKING:
    from typing_extensions import Self

    from .kinds import Kind

P = ParamSpec("P")
T = TypeVar("T")
H = TypeVar("H", bound="Handle")

_FIRST_READ = 1 << 13  # bytes that are read ahead; twice as many each time
_LINES = 1000  # that are written at once
_handles: weakref.WeakSet[Handle] = weakref.WeakSet()


def in_turn(
    method: Callable[Concatenate[H, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[H, P], Coroutine[Any, Any, T]]:
    """Makes it an operation, that is done when those that were called before have been."""

    @functools.wraps(method)
    async def operation(self: H, /, *args: P.args, **kwargs: P.kwargs) -> T:
        turn = await self._take_turn()
        try:
            return await method(self, *args, **kwargs)
        finally:
            self._end_turn(turn)

    return operation


class Handle:
    """An open file. What its methods do is what those of :mod:`io` do, and they are coroutines."""

    _descriptor = -1  # until it is opened
    _front: ReadBuffer[Any]  # what its reads take from, without a turn

    def __init__(
        self, descriptor: int, kind: Kind, name: Any, status: os.stat_result, closes: bool
    ) -> None:
        self._kind = kind
        self._closes = closes  # the descriptor is its own
        self._name = name
        self._turns: deque[asyncio.Future[None]] = deque()
        self._abandoned: tuple[Operation[Any], Completion] | None = None
        self._bytes = ReadBuffer(b"", True)
        self._ahead = min(_FIRST_READ, kind.size)
        self._offset = _position_of(descriptor, kind.appends)  # where the bytes that were read end
        self._has_positions = self._offset != STREAM
        self._order = order_of(status)
        self._key = 0 if stat.S_ISREG(status.st_mode) else _stream_key(descriptor)
        self._writes = WriteBehind(descriptor, self._order, self._key, kind.size)
        self._has_appended = False  # since the handle knows where it is
        self._detached = False

    def adopt(self, descriptor: int) -> None:
        """From now on the handle is open, and closes the descriptor."""
        self._descriptor = descriptor
        _handles.add(self)

    # ---- turns

    async def _take_turn(self) -> asyncio.Future[None]:
        turn = asyncio.get_running_loop().create_future()
        self._turns.append(turn)
        self._front.is_locked = True
        try:
            if self._turns[0] is not turn:
                await turn
            if self._abandoned:
                await self._take_back(*self._abandoned)
            if self._front.owes_turn():
                await asyncio.sleep(0)
            self._check_open()
        except BaseException:
            self._end_turn(turn)
            raise
        return turn

    def _end_turn(self, turn: asyncio.Future[None]) -> None:
        turns = self._turns
        was_first = bool(turns) and turns[0] is turn
        with suppress(ValueError):  # in a forked child it is gone
            turns.remove(turn)
        if was_first:
            while turns and not _wake(turns[0]):
                turns.popleft()
        if not turns:
            self._front.is_locked = False

    async def _run(self, operation: Operation[T]) -> T:
        """Does it, in place or by a worker, in the handle's turn."""
        if operation.attempt():
            return await operation
        return await self._follow(operation, begin(operation))

    async def _run_in_order(self, operation: Operation[int]) -> int:
        """Does it after what has been begun before on this file, by whatever handle."""
        completion = self._order.begin(operation, self._key)
        return await (self._follow(operation, completion) if completion else operation)

    async def _follow(self, operation: Operation[T], completion: Completion) -> T:
        try:
            await asyncio.shield(completion)
        except BaseException:
            operation.cancel()
            self._abandoned = operation, completion
            raise
        return operation.result()

    async def _take_back(self, operation: Operation[Any], completion: Completion) -> None:
        """Waits for one that was cancelled. What it has got of a stream is the next one's."""
        await wait_for(operation, completion)
        self._abandoned = None
        with suppress(OSError):
            data = operation.result()
            if isinstance(data, bytes) and not self._has_positions:
                self._bytes.fill(self._bytes.cut(-1) + data)

    # ---- bytes, for those whose turn it is

    async def _read_more(self, wanted: int) -> bytes:
        """Returns up to so many bytes; b"" at the end of the file."""
        if not self._bytes:
            await self._see_writes()
            size = max(wanted, self._ahead)
            offset = self._offset if self._has_positions else STREAM
            data = await self._run(Operation.pread(self._descriptor, size, offset))
            self._offset += len(data)
            if wanted >= self._kind.size:
                self._bytes.fill(b"")
                return data
            self._ahead = min(2 * self._ahead, self._kind.size)
            self._bytes.fill(data)
        return self._bytes.cut(wanted)

    async def _read_to_end(self) -> list[bytes]:
        parts = [self._bytes.cut(-1)]
        try:
            await self._see_writes()
            left = await self._count_left()
            while data := await self._read_more(max(left, _FIRST_READ)):
                parts.append(data)
                left -= len(data)
        except BaseException:
            self._give_back(parts)
            raise
        return parts

    async def _count_left(self) -> int:
        """Returns how many bytes are said to be left."""
        if not self._has_positions:
            return 0
        status = await self._run(Operation.stat(self._descriptor, b"", EMPTY_PATH))
        return max(status.st_size - self._offset, 0)

    def _give_back(self, parts: list[bytes]) -> None:
        """The next one reads them again."""
        self._bytes.fill(b"".join([*parts, self._bytes.cut(-1)]))

    async def _see_writes(self) -> None:
        if self._has_appended or not self._writes.is_empty:
            await self._settle()

    async def _settle(self) -> None:
        await self._writes.settle()
        if self._has_appended:
            self._has_appended = False
            self._offset = os.lseek(self._descriptor, 0, os.SEEK_CUR)

    def _forget_ahead(self) -> None:
        """What was read ahead is to be read again."""
        if self._has_positions:
            self._offset -= len(self._bytes)
            self._bytes.fill(b"")

    async def _put(self, data: bytes | memoryview) -> int:
        await self._writes.get_ready()
        if not data:
            return 0
        self._forget_ahead()
        self._add(data)
        if not self._kind.size:
            return len(data) - await self._write_through(len(data))
        await self._writes.leave_room()
        return len(data)

    def _has_room(self, count: int) -> bool:
        """Whether so many bytes can be added at once, without a turn."""
        return (
            self._front.is_free()
            and self._descriptor >= 0
            and self._kind.writes
            and not self._bytes
            and self._writes.has_room(count)
        )

    def _add(self, data: bytes | memoryview) -> None:
        is_placed = self._has_positions and not self._kind.appends
        self._writes.add(data, self._offset if is_placed else STREAM)
        if data and self._has_positions and self._kind.appends:
            self._has_appended = True
        self._offset += len(data)

    async def _write_through(self, count: int) -> int:
        """Writes what has been added. Returns how many bytes have not been written."""
        try:
            await self._settle()
        except OSError:
            left = self._writes.drop()
            self._offset -= left
            if left == count:
                raise
            return left
        return 0

    async def _tell_bytes(self) -> int:
        self._check_positions()
        if self._kind.appends:
            await self._see_writes()
        return self._offset - len(self._bytes)

    async def _seek_bytes(self, offset: int, whence: int) -> int:
        self._check_positions()
        self._writes.submit()
        if whence == os.SEEK_SET:
            target = offset
        elif whence == os.SEEK_CUR:
            target = await self._tell_bytes() + offset
        else:
            target = await self._find(offset, whence)
        if target < 0:
            raise OSError(22, os.strerror(22))
        begin = self._offset - len(self._bytes.data)
        if self._bytes and begin <= target <= self._offset:
            self._bytes.begin = target - begin
            return target
        if self._kind.appends:
            await self._see_writes()
        self._bytes.fill(b"")
        self._ahead = min(_FIRST_READ, self._kind.size)
        self._offset = target
        return target

    async def _find(self, offset: int, whence: int) -> int:
        """Where that is, seen from the file's end, say."""
        await self._see_writes()
        if whence == os.SEEK_END:
            status = await self._run(Operation.stat(self._descriptor, b"", EMPTY_PATH))
            if stat.S_ISREG(status.st_mode):
                return status.st_size + offset
        return await asyncio.wrap_future(submit_call(os.lseek, self._descriptor, offset, whence))

    async def _truncate(self, size: int) -> int:
        await self._settle()
        self._forget_ahead()
        await self._run_in_order(Operation.truncate(self._descriptor, size))
        return size

    async def _flush_bytes(self) -> None:
        await self._settle()
        self._show_position()

    def _show_position(self) -> None:
        """Puts the descriptor's position where the handle's is, for others who use it."""
        if self._has_positions and not self._kind.appends:
            os.lseek(self._descriptor, self._offset - len(self._bytes), os.SEEK_SET)

    # ---- what all handles have

    @property
    def closed(self) -> bool:
        """Whether it is closed."""
        self._check_attached()
        return self._descriptor < 0

    @property
    def name(self) -> Any:
        """What was opened: a path or a descriptor."""
        return self._name

    def fileno(self) -> int:
        """Returns its descriptor."""
        self._check_open()
        return self._descriptor

    async def isatty(self) -> bool:
        """Whether it is a terminal."""
        return os.isatty(self.fileno())

    async def writable(self) -> bool:
        """Whether it can be written to."""
        self._check_open()
        return self._kind.writes

    async def seekable(self) -> bool:
        """Whether it has positions."""
        self._check_open()
        return self._has_positions

    async def close(self) -> None:
        """Writes what isn't written, waits for all operations, and closes the descriptor.

        :raises OSError: something couldn't be written; the file is closed nevertheless. If it
            is cancelled, what is under way is written nevertheless, and the file closed.
        """
        if self.closed:
            return
        try:
            await self._close()
        except ValueError:
            if self._descriptor >= 0:
                raise  # else another one has closed it meanwhile

    @in_turn
    async def _close(self) -> None:
        try:
            await self._flush_bytes()
        except asyncio.CancelledError:
            if not self._has_positions:  # nobody may ever read it; a disk takes it
                self._writes.give_up()
            self._release()
            raise
        except OSError:
            await _closed(*self._release())
            raise
        await _closed(*self._release())

    def _release(self) -> tuple[Operation[int] | None, Completion | None]:
        """Has the descriptor closed, after what is under way."""
        descriptor, self._descriptor = self._descriptor, -1
        _handles.discard(self)
        self._front.fill(type(self._front.data)())
        self._bytes.fill(b"")
        self._writes.submit()
        self._writes.forget()
        if not self._closes:
            return None, None
        operation = Operation.close(descriptor)
        try:
            return operation, self._order.begin(operation, self._key)
        except OSError:  # no thread can be had
            os.close(descriptor)
            raise

    async def __aenter__(self) -> Self:
        self._check_open()
        return self

    async def __aexit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        await self.close()

    # ---- without a loop

    def _finish(self) -> None:
        """Writes what isn't written; the calling thread waits."""
        if self._abandoned:
            self._abandoned[0].wait()
        self._writes.finish()
        self._forget_ahead()
        self._show_position()

    def _finish_or_report(self) -> None:
        try:
            self._finish()
        except (OSError, ValueError) as error:
            lib.iowq_report(id(error), id(self))

    def _detach(self) -> io.BufferedIOBase:
        self._check_open()
        self._finish()
        descriptor, self._descriptor = self._descriptor, -1
        self._detached = True
        self._front.fill(type(self._front.data)())
        _handles.discard(self)
        return cast(
            "io.BufferedIOBase",
            open(descriptor, self._kind.binary_mode, closefd=self._closes),
        )

    def _forget_operations(self) -> None:
        """In a forked child: what is under way is the parent's, as is what is to be written."""
        self._turns.clear()
        self._front.is_locked = False
        self._abandoned = None
        self._writes.forget()

    def __del__(self) -> None:
        """As a file of :mod:`io`, which is closed, and says so."""
        if self._descriptor < 0:
            return
        if self._closes:
            warnings.warn(f"unclosed file {self!r}", ResourceWarning, stacklevel=2, source=self)
        try:
            self._finish()
        finally:
            if self._closes:
                os.close(self._descriptor)

    # ---- what is refused

    def _check_attached(self) -> None:
        if self._detached:
            raise ValueError("raw stream has been detached")

    def _check_open(self) -> None:
        self._check_attached()
        if self._descriptor < 0:
            raise ValueError("I/O operation on closed file.")

    def _check_reads(self) -> None:
        if not self._kind.reads:
            raise io.UnsupportedOperation("not readable")

    def _check_writes(self) -> None:
        if not self._kind.writes:
            raise io.UnsupportedOperation("not writable")

    def _check_positions(self) -> None:
        if not self._has_positions:
            raise io.UnsupportedOperation("underlying stream is not seekable")


def joined(empty: T, lines: Iterable[Any]) -> Iterator[T]:
    """Gives what :meth:`writelines` writes, many lines at a time."""
    rest = iter(lines)
    while batch := list(itertools.islice(rest, _LINES)):
        yield cast("Any", empty).join(batch)


async def _closed(operation: Operation[int] | None, completion: Completion | None) -> None:
    """Waits until it is."""
    if completion:
        await asyncio.shield(completion)
    if operation:
        operation.result()


def _position_of(descriptor: int, appends: bool) -> int:
    """Returns the descriptor's position, or STREAM."""
    try:
        return os.lseek(descriptor, 0, os.SEEK_END if appends else os.SEEK_CUR)
    except OSError:
        return STREAM


def _stream_key(descriptor: int) -> int:
    """Returns that of its writes."""
    return Operation.transfer(True, descriptor, 0, 0, None, STREAM).stream()


def _wake(turn: asyncio.Future[None]) -> bool:
    """Tells the owner of a turn that it has begun. Returns whether there still is one."""
    loop = turn.get_loop()
    if loop is asyncio._get_running_loop():
        _begin_turn(turn)
        return True
    try:
        loop.call_soon_threadsafe(_begin_turn, turn)
    except RuntimeError:  # it is closed
        return False
    return True


def _begin_turn(turn: asyncio.Future[None]) -> None:
    if not turn.done():
        turn.set_result(None)


@atexit.register
def _write_all() -> None:
    """At exit, when no thread is left that could write."""
    for handle in list(_handles):
        if handle._kind.writes:
            handle._finish_or_report()


def _forget_all() -> None:
    for handle in list(_handles):
        handle._forget_operations()


os.register_at_fork(after_in_child=_forget_all)
