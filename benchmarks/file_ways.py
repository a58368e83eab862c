"""Ways to read and write files on an event loop: iowq's, and others'.

Each measurement opens what it needs first, and returns nanoseconds per operation.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import aiofiles
import anyio
import uvloop

from iowq import files

BLOCK = 4096
AT_A_TIME = 64
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}

#: time.process_time_ns, where others use the processors, too.
clock: Callable[[], int] = time.perf_counter_ns

#: Reads blocks at these offsets, one after the other.
ReadBlocks = Callable[[Sequence[int]], Awaitable[object]]
#: Opens a file for that.
Way = Callable[[Path], AbstractAsyncContextManager[ReadBlocks]]
#: Reads a whole file.
ReadWhole = Callable[[Path], Awaitable[object]]


def run(loop_name: str, main: Callable[[], Awaitable[float]]) -> float:
    """Runs it on a new event loop."""
    loop = LOOPS[loop_name]()
    try:
        asyncio.set_event_loop(loop)
        return loop.run_until_complete(main())
    finally:
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


# ---- blocks of one file


@asynccontextmanager
async def _descriptor(path: Path) -> AsyncIterator[int]:
    fd = os.open(path, os.O_RDONLY)
    try:
        yield fd
    finally:
        os.close(fd)


@asynccontextmanager
async def by_iowq(path: Path) -> AsyncIterator[ReadBlocks]:
    """files.pread."""
    async with _descriptor(path) as fd:

        async def read(offsets: Sequence[int]) -> None:
            for offset in offsets:
                await files.pread(fd, BLOCK, offset)

        yield read


@asynccontextmanager
async def by_os(path: Path) -> AsyncIterator[ReadBlocks]:
    """os.pread: the loop waits for it."""
    async with _descriptor(path) as fd:

        async def read(offsets: Sequence[int]) -> None:
            for offset in offsets:
                os.pread(fd, BLOCK, offset)

        yield read


@asynccontextmanager
async def by_executor(path: Path) -> AsyncIterator[ReadBlocks]:
    """run_in_executor(ThreadPoolExecutor, os.pread)."""
    loop = asyncio.get_running_loop()
    async with _descriptor(path) as fd:

        async def read(offsets: Sequence[int]) -> None:
            for offset in offsets:
                await loop.run_in_executor(None, os.pread, fd, BLOCK, offset)

        yield read


@asynccontextmanager
async def by_caio(path: Path) -> AsyncIterator[ReadBlocks]:
    """caio, below aiofile: io_uring, where that is allowed."""
    caio: Any = importlib.import_module("caio")
    async with _descriptor(path) as fd, _context_of(caio) as context:

        async def read(offsets: Sequence[int]) -> None:
            for offset in offsets:
                await context.read(BLOCK, fd, offset)

        yield read


_caio_contexts: dict[asyncio.AbstractEventLoop, Any] = {}


@asynccontextmanager
async def _context_of(caio: Any) -> AsyncIterator[Any]:
    """One for all tasks of the loop, as aiofile has it."""
    loop = asyncio.get_running_loop()
    if loop in _caio_contexts:
        yield _caio_contexts[loop]
        return
    context = _caio_contexts[loop] = caio.AsyncioContext(max_requests=512)
    try:
        yield context
    finally:
        del _caio_contexts[loop]
        closed = context.close()
        if asyncio.iscoroutine(closed) or asyncio.isfuture(closed):
            await closed


def _by_handle(opener: Callable[[Path], Any]) -> Way:
    """A handle for each task: it reads in order, and moves only if it has to."""

    @asynccontextmanager
    async def way(path: Path) -> AsyncIterator[ReadBlocks]:
        async with opener(path) as file:

            async def read(offsets: Sequence[int]) -> None:
                position = 0
                for offset in offsets:
                    if offset != position:
                        await file.seek(offset)
                    await file.read(BLOCK)
                    position = offset + BLOCK

            yield read

    return way


by_handle = _by_handle(lambda path: files.open(path, "rb"))
by_aiofiles = _by_handle(lambda path: aiofiles.open(path, "rb"))


@asynccontextmanager
async def _open_by_anyio(path: Path) -> AsyncIterator[Any]:
    async with await anyio.open_file(path, "rb") as file:
        yield file


by_anyio = _by_handle(_open_by_anyio)


def by_library(name: str) -> Way:
    """A library whose open() is as aiofiles' is."""
    return _by_handle(lambda path: importlib.import_module(name).open(path, "rb"))


def in_order(count: int) -> list[list[int]]:
    """One reader's offsets."""
    return [list(range(0, count * BLOCK, BLOCK))]


def at_a_time(count: int) -> list[list[int]]:
    """As many offsets, for 64 readers."""
    part = count // AT_A_TIME
    return [
        list(range(reader * part * BLOCK, (reader + 1) * part * BLOCK, BLOCK))
        for reader in range(AT_A_TIME)
    ]


def at_random(count: int, blocks: int) -> list[list[int]]:
    """Blocks that nobody has read yet, for 64 readers."""
    offsets = [block * BLOCK for block in random.sample(range(blocks), count)]
    return [offsets[reader::AT_A_TIME] for reader in range(AT_A_TIME)]


async def _read_blocks(way: Way, path: Path, offsets: list[list[int]]) -> float:
    async with contextlib.AsyncExitStack() as stack:
        readers = [await stack.enter_async_context(way(path)) for _ in offsets]
        await readers[0]([0] * 16)  # the first threads are there
        begun = clock()
        if len(offsets) == 1:
            await readers[0](offsets[0])
        else:
            await asyncio.gather(*(r(own) for r, own in zip(readers, offsets, strict=True)))
        return (clock() - begun) / sum(map(len, offsets))


def cached(loop: str, way: Way, path: Path, offsets: list[list[int]]) -> float:
    """What is in the page cache."""
    return run(loop, lambda: _read_blocks(way, path, offsets))


def uncached(loop: str, way: Way, path: Path, count: int) -> float:
    """What isn't, at random, 64 at a time."""
    forget(path)
    offsets = at_random(count, path.stat().st_size // BLOCK)
    return run(loop, lambda: _read_blocks(way, path, offsets))


def worst_delay(loop: str, way: Way, path: Path, count: int) -> float:
    """How long the loop keeps others waiting at most while that goes on."""
    worst = 0

    async def watch() -> None:
        nonlocal worst
        before = time.perf_counter_ns()
        while True:
            await asyncio.sleep(0)
            now = time.perf_counter_ns()
            worst, before = max(worst, now - before), now

    async def main() -> float:
        watching = asyncio.ensure_future(watch())
        await _read_blocks(way, path, offsets)
        watching.cancel()
        return worst

    forget(path)
    offsets = at_random(count, path.stat().st_size // BLOCK)
    return run(loop, main)


def forget(path: Path) -> None:
    """Has the kernel drop the file from its page cache, and read nothing ahead."""
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


# ---- whole files


async def whole_by_iowq(path: Path) -> bytes:
    return await files.read_bytes(path)


async def whole_by_handle(path: Path) -> bytes:
    async with files.open(path, "rb") as file:
        return await file.read()


async def whole_by_aiofiles(path: Path) -> bytes:
    async with aiofiles.open(path, "rb") as file:
        return await file.read()


async def whole_by_anyio(path: Path) -> bytes:
    return await anyio.Path(path).read_bytes()


async def whole_by_executor(path: Path) -> bytes:
    return await asyncio.get_running_loop().run_in_executor(None, path.read_bytes)


def whole_by_library(name: str) -> ReadWhole:
    library: Any = importlib.import_module(name)

    async def read(path: Path) -> bytes:
        result: bytes = await library.read_bytes(path)
        return result

    return read


def whole(loop: str, read: ReadWhole, paths: list[Path]) -> float:
    """Small files, 64 at a time."""

    async def some(own: list[Path]) -> None:
        for path in own:
            await read(path)

    async def main() -> float:
        await read(paths[0])
        begun = clock()
        await asyncio.gather(*(some(paths[reader::AT_A_TIME]) for reader in range(AT_A_TIME)))
        return (clock() - begun) / len(paths)

    return run(loop, main)


# ---- lines


async def _lines_by_iowq(path: Path, count: int) -> None:
    async with files.open(path) as file:
        async for _line in file:
            count -= 1
            if not count:
                break


async def _lines_by_aiofiles(path: Path, count: int) -> None:
    async with aiofiles.open(path) as file:
        async for _line in file:
            count -= 1
            if not count:
                break


async def _lines_by_for(path: Path, count: int) -> None:
    with path.open() as file:
        for _line in file:
            count -= 1
            if not count:
                break


LINES = {"iowq": _lines_by_iowq, "aiofiles": _lines_by_aiofiles, "for": _lines_by_for}


def lines(loop: str, way: str, path: Path, count: int) -> float:
    """A text, line by line."""

    async def main() -> float:
        begun = clock()
        await LINES[way](path, count)
        return (clock() - begun) / count

    return run(loop, main)


# ---- appends


async def _append_by_iowq(paths: list[Path], records: list[bytes]) -> None:
    """The order of the calls is that of the file."""
    async with contextlib.AsyncExitStack() as stack:
        handles = [await stack.enter_async_context(files.open(path, "ab")) for path in paths]

        async def append(record: bytes) -> None:
            for handle in handles:
                await handle.write(record)

        await asyncio.gather(*map(append, records))
        for handle in handles:
            await handle.flush()
        await asyncio.gather(*(files.fdatasync(handle.fileno()) for handle in handles))


async def _append_by_aiofiles(paths: list[Path], records: list[bytes]) -> None:
    loop = asyncio.get_running_loop()
    async with contextlib.AsyncExitStack() as stack:
        handles = [await stack.enter_async_context(aiofiles.open(path, "ab")) for path in paths]
        locks = [asyncio.Lock() for _ in paths]

        async def append(record: bytes) -> None:
            for handle, lock in zip(handles, locks, strict=True):
                async with lock:
                    await handle.write(record)

        await asyncio.gather(*map(append, records))
        for handle in handles:
            await handle.flush()
        await asyncio.gather(
            *(loop.run_in_executor(None, os.fdatasync, handle.fileno()) for handle in handles)
        )


APPENDS = {"iowq": _append_by_iowq, "aiofiles": _append_by_aiofiles}


def appends(loop: str, way: str, folder: Path, count: int) -> float:
    """To 64 files, in order, and fdatasync at the end."""
    paths = [folder / f"appended-{number}" for number in range(AT_A_TIME)]
    records = [bytes(100)] * (count // AT_A_TIME)

    async def main() -> float:
        begun = clock()
        await APPENDS[way](paths, records)
        return (clock() - begun) / (len(paths) * len(records))

    try:
        return run(loop, main)
    finally:
        for path in paths:
            path.unlink(missing_ok=True)
