"""Write-behind: what was written to a handle is on its way to the file while the writer goes on.

It is gathered in a buffer, and then handed to a worker as a chunk. The chunks of a handle are
linked: after one that fails the others do nothing, so that a file has no holes, and come back in
their order. What hasn't been written is kept, and tried again when the handle is flushed or written
to.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from .._native import ffi
from .._types import Operation
from .perform import Completion, wait_for

if TYPE_CHECKING:
    from .order import Order

UNDER_WAY_MAX = 1 << 20  # bytes, of one handle
STREAM = -1  # an offset: the file's position


class _Chunk(NamedTuple):
    data: bytes | bytearray | memoryview
    offset: int

    def after(self, done: int) -> _Chunk:
        offset = self.offset if self.offset == STREAM else self.offset + done
        return _Chunk(memoryview(self.data)[done:], offset)


class _UnderWay(NamedTuple):
    chunk: _Chunk
    operation: Operation[int]
    completion: Completion | None  # None: it was done in place


class WriteBehind:
    """What was written to a handle, and isn't in its file yet.

    :param size: of the buffer, in bytes; 0: nothing waits in it.
    :param key: see :meth:`Order.begin`.
    """

    def __init__(self, fd: int, order: Order, key: int, size: int) -> None:
        self._fd = fd
        self._order = order
        self._key = key
        self._size = size
        self.forget()

    def forget(self) -> None:
        """Drops all. In a forked child it is the parent's."""
        self._buffer = bytearray()
        self._begin = 0  # the buffer's place in the file
        self._under_way: deque[_UnderWay] = deque()
        self._bytes = 0  # that are under way
        self._returned: deque[_Chunk] = deque()  # what wasn't written
        self._error: OSError | None = None  # that nobody has been told
        self._link = ffi.new("uint32_t[1]")

    @property
    def is_empty(self) -> bool:
        """Whether all has been written, and nothing is to be told."""
        return not (self._buffer or self._under_way or self._returned or self._error)

    def has_room(self, count: int) -> bool:
        """Whether so many bytes fit into the buffer, and there is nothing to be told."""
        if self._under_way:
            self._collect()
        return len(self._buffer) + count < self._size and not (self._error or self._returned)

    def add(self, data: bytes | memoryview, offset: int) -> None:
        """Takes bytes. Their place is where those in the buffer end."""
        if not self._buffer:
            self._begin = offset
            if len(data) >= self._size:
                self._begin_chunk(_Chunk(bytes(data), offset))
                return
        self._buffer += data
        if len(self._buffer) >= self._size:
            self.submit()

    def submit(self) -> None:
        """Has what is in the buffer written."""
        if self._buffer:
            chunk = _Chunk(self._buffer, self._begin)
            self._buffer = bytearray()
            self._begin_chunk(chunk)

    def _begin_chunk(self, chunk: _Chunk) -> None:
        if self._returned:
            self._returned.append(chunk)
            return
        operation = self._make_operation(chunk, int(ffi.cast("uintptr_t", self._link)))
        completion = None
        try:
            completion = self._order.begin(operation, self._key)
        except OSError as error:  # there is no queue: it comes back, and so do those after it
            self._error = self._error or error
            self._link[0] = 1
        self._bytes += len(chunk.data)
        self._under_way.append(_UnderWay(chunk, operation, completion))

    def _make_operation(self, chunk: _Chunk, link: int) -> Operation[int]:
        memory = ffi.from_buffer(chunk.data)
        address = int(ffi.cast("uintptr_t", memory))
        return Operation.transfer(
            True, self._fd, address, len(memory), memory, chunk.offset, link, self._link
        )

    async def get_ready(self) -> None:
        """Before more is taken: raises what has failed, or tries again what has failed before."""
        self._collect()
        if self._error or self._returned:
            await self.settle()

    async def leave_room(self) -> None:
        """Waits until not too much is under way."""
        self._collect()
        while self._bytes > UNDER_WAY_MAX:
            await self._wait_for(self._under_way[0])

    async def settle(self) -> None:
        """Waits until all has been written.

        :raises OSError: the first error since the last time.
        """
        self._collect()
        if self._returned:
            await self.complete()
            self._try_again()
        self.submit()
        await self.complete()
        self._tell()

    async def complete(self) -> None:
        """Waits until nothing is under way."""
        while self._under_way:  # the latest is done at last
            await self._wait_for(self._under_way[-1])

    async def _wait_for(self, awaited: _UnderWay) -> None:
        if awaited.completion:
            await wait_for(awaited.operation, awaited.completion)
        self._collect()

    def _try_again(self) -> None:
        self._link[0] = 0
        chunks, self._returned = self._returned, deque()
        for chunk in chunks:
            self._begin_chunk(chunk)

    def _collect(self) -> None:
        """Takes those that have completed out of what is under way."""
        while self._under_way:
            chunk, operation, _ = self._under_way[0]
            outcome = operation.check()
            if outcome is None:
                return
            self._under_way.popleft()
            self._bytes -= len(chunk.data)
            self._take_back(chunk, *outcome)

    def _take_back(self, chunk: _Chunk, done: int, error: int) -> None:
        if done == len(chunk.data):
            return
        if not self._returned and not self._error:  # the others have been cancelled for it
            self._error = OSError(error or errno.EIO, os.strerror(error or errno.EIO))
        self._returned.append(chunk.after(done))

    def give_up(self) -> None:
        """Ends what is under way, where that is possible."""
        for _, operation, _ in self._under_way:
            operation.cancel()

    def drop(self) -> int:
        """Drops what has come back. Returns how many bytes that is."""
        count = sum(len(chunk.data) for chunk in self._returned)
        self._returned.clear()
        return count

    def _tell(self) -> None:
        error, self._error = self._error, None
        if error:
            raise error

    def finish(self) -> None:
        """As :meth:`settle`, but the calling thread waits."""
        for _, operation, _ in self._under_way:
            operation.wait()
        self._collect()
        if self._buffer:
            self._returned.append(_Chunk(self._buffer, self._begin))
            self._buffer = bytearray()
        chunks, self._returned = self._returned, deque()
        while chunks and not self._returned:
            self._write(chunks.popleft())
        self._returned += chunks
        self._tell()

    def _write(self, chunk: _Chunk) -> None:
        operation = self._make_operation(chunk, 0)
        with suppress(OSError):  # check() has it, too
            operation.run()
        self._take_back(chunk, *(operation.check() or (0, errno.EIO)))
