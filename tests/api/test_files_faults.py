"""Files on disks that are full, fail, wait, or change meanwhile: nobody is kept waiting by them."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import resource
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from iowq import files
from loops import NEW_LOOPS, Run, until
from support import DEADLINE, wait_until

if TYPE_CHECKING:
    from file_systems import Faulty

DATA = b"0123456789" * 10_000


@contextmanager
def opened(path: Path, flags: int = os.O_RDWR | os.O_CREAT) -> Iterator[int]:
    fd = os.open(path, flags, 0o600)
    try:
        yield fd
    finally:
        os.close(fd)


class Buffer(bytearray):
    """One that tells when it is gone."""


def count_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def is_in_place(operation: Awaitable[object]) -> bool:
    """Whether it was done where it was begun."""
    return not isinstance(operation, asyncio.Future)


async def fails_with(number: int, operation: Awaitable[object]) -> None:
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the number is compared
        await operation
    assert caught.value.errno == number


# ---- what can't be written


def test_a_full_disk(run: Run, small: Path) -> None:
    async def main() -> None:
        with opened(small / "file") as fd:
            written = await files.pwrite(fd, bytes(1 << 20), 0)
            assert 0 < written <= 256 << 10
            assert (await files.stat(fd)).st_size == written
            for _ in range(2):  # the second time in place
                await fails_with(errno.ENOSPC, files.pwrite(fd, b"1", written))
                await fails_with(errno.ENOSPC, files.write_bytes(small / "other", bytes(5000)))
            await files.ftruncate(fd, 0)
            assert await files.write_bytes(small / "other", bytes(5000)) == 5000

    run(main())


def test_a_limit_to_the_size_of_files(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        with opened(tmp_path / "file") as fd:
            assert await files.pwrite(fd, DATA, 0) == 50_000
            await fails_with(errno.EFBIG, files.pwrite(fd, b"1", 50_000))
            assert await files.pread(fd, 10**6, 0) == DATA[:50_000]
            await fails_with(errno.EFBIG, files.write_bytes(tmp_path / "other", DATA))

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        run(main())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("flags", [0, os.O_NONBLOCK])
def test_a_pipe_takes_it_in_parts(run: Run, flags: int) -> None:
    """However long its reader takes, and even where the writer's descriptor doesn't wait."""
    reading, writing = os.pipe2(flags)

    async def main() -> None:
        written = asyncio.ensure_future(files.pwrite(writing, DATA * 5, -1))
        got = bytearray()
        while len(got) < len(DATA) * 5:
            got += await files.pread(reading, 50_000, -1)
        assert got == DATA * 5
        assert await written == len(got)
        waiting = asyncio.ensure_future(files.pread(reading, 10, -1))
        await asyncio.sleep(0)
        os.write(writing, b"later")
        assert await waiting == b"later"
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(files.pwrite(writing, DATA * 5, -1), 0.01)
        ending = asyncio.ensure_future(files.pwrite(writing, b"end", -1))
        got.clear()
        while not got.endswith(b"end"):
            got += await files.pread(reading, 50_000, -1)
        assert (DATA * 5).startswith(got[:-3])
        assert await ending == 3

    run(main())
    os.close(reading)
    os.close(writing)


def test_nobody_reads_the_pipe_any_more(run: Run) -> None:
    async def main() -> None:
        reading, writing = os.pipe()
        waiting = asyncio.ensure_future(files.pwrite(writing, DATA * 5, -1))
        await files.pread(reading, 10, -1)
        os.close(reading)
        assert 10 <= await waiting < len(DATA) * 5  # what was written before the error
        await fails_with(errno.EPIPE, files.pwrite(writing, b"1", -1))
        os.close(writing)

    run(main())


# ---- a disk that fails


def test_errors_of_the_disk(run: Run, faulty: Faulty) -> None:
    async def main() -> None:
        with opened(faulty.bad, os.O_RDWR) as fd:
            for call in (
                lambda: files.pread(fd, 10, 0),
                lambda: files.preadinto(fd, bytearray(10), 0),
                lambda: files.pwrite(fd, b"1", 0),
                lambda: files.fsync(fd),
                lambda: files.fdatasync(fd),
                lambda: files.ftruncate(fd, 5),
                lambda: files.read_bytes(faulty.bad),
                lambda: files.write_bytes(faulty.bad, b"1", flags=0),
            ):
                await fails_with(errno.EIO, call())
        assert await files.read_bytes(faulty.good) == DATA

    run(main())


# ---- a disk that waits


def test_who_waits_for_a_disk_keeps_nobody_waiting(
    run: Run, faulty: Faulty, tmp_path: Path
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with opened(faulty.slow, os.O_RDWR) as fd:
            buffer = bytearray(5)
            for call, result in (
                (lambda: files.pread(fd, 5, 0), DATA[:5]),
                (lambda: files.preadinto(fd, buffer, 5), 5),
                (lambda: files.pwrite(fd, b"01", 0), 2),
                (lambda: files.fsync(fd), 0),
            ):
                operation = cast("Callable[[], Awaitable[Any]]", call)()
                assert not is_in_place(operation)
                await loop.run_in_executor(None, faulty.wait_until_waiting)
                for _ in range(3):
                    assert await files.write_bytes(tmp_path / "other", b"other") == 5
                    assert await files.read_bytes(tmp_path / "other") == b"other"
                assert not cast("asyncio.Future[Any]", operation).done()
                faulty.go_on()
                assert await operation == result
            faulty.have_looks_wait()
            looking = files.stat(fd)
            await loop.run_in_executor(None, faulty.wait_until_waiting)
            assert (await files.stat(tmp_path / "other")).st_size == 5
            faulty.go_on(100)
            assert (await looking).st_size == len(DATA)

    run(main())


def test_what_is_abandoned_keeps_its_buffer(run: Run, faulty: Faulty) -> None:
    """A disk's read can't be ended: its task goes on, its buffer is nobody else's until it has."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        buffer = bytearray(10)
        with opened(faulty.slow, os.O_RDONLY) as fd:
            reading = asyncio.ensure_future(files.preadinto(fd, buffer, 0))
            await loop.run_in_executor(None, faulty.wait_until_waiting)
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
            with pytest.raises(BufferError):
                buffer.clear()
            del reading
            faulty.go_on()
            await until(lambda: is_free(buffer))
            faulty.go_on(10)

    def is_free(buffer: bytearray) -> bool:
        try:
            buffer.append(0)
        except BufferError:
            return False
        return True

    before = count_descriptors()
    run(main())
    assert count_descriptors() <= before + 1  # the loop's inbox waits for the next one


def test_outside_of_a_loop(faulty: Faulty) -> None:
    with opened(faulty.slow, os.O_RDWR) as fd:
        reading = cast("Future[bytes]", files.pread(fd, 10, 0))
        faulty.wait_until_waiting()
        assert not reading.done()
        faulty.go_on()
        assert reading.result(DEADLINE) == DATA[:10]
        faulty.go_on(10)


@pytest.mark.parametrize("new_loop", NEW_LOOPS.values(), ids=list(NEW_LOOPS))
def test_a_loop_closes_while_a_disk_waits(new_loop: Any, faulty: Faulty) -> None:
    buffers: list[weakref.ref[Buffer]] = []

    async def begin() -> None:
        for offset in range(0, 50_000, 10_000):
            buffer = Buffer(10)
            buffers.append(weakref.ref(buffer))
            files.preadinto(fd, buffer, offset)
        await loop.run_in_executor(None, faulty.wait_until_waiting)

    async def use() -> None:
        await files.write_bytes(faulty.good, b"x", flags=0)

    with opened(faulty.slow, os.O_RDWR) as fd:
        loop = new_loop()
        loop.run_until_complete(begin())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
        faulty.go_on(20)

        def all_gone() -> bool:
            new = new_loop()
            new.run_until_complete(use())  # which takes what nobody waits for any more
            new.close()
            return not any(buffer() for buffer in buffers)

        wait_until(all_gone)


# ---- files that change meanwhile


def _change(path: Path, over: threading.Event) -> None:
    chance = random.Random(5)
    with opened(path) as fd:
        while not over.is_set():
            os.ftruncate(fd, chance.randrange(len(DATA)))
            if chance.random() < 0.5:
                os.ftruncate(fd, len(DATA))
            os.pwrite(fd, DATA, 0)


def _check(got: bytes, offset: int) -> None:
    """It is what was there, or zeros; it may end early."""
    expected = DATA[offset : offset + len(got)]
    assert len(expected) == len(got)
    assert got == expected or all(a in (b, 0) for a, b in zip(got, expected, strict=True))


def test_truncation_meanwhile(run: Run, overlay: Path, tmp_path: Path) -> None:
    async def read(path: Path) -> None:
        chance = random.Random(6)
        with opened(path) as fd:
            for _ in range(300):
                offset = chance.randrange(len(DATA))
                _check(await files.pread(fd, chance.randrange(50_000), offset), offset)
                _check(await files.read_bytes(path), 0)

    async def main() -> None:
        await asyncio.gather(*map(read, paths))

    over = threading.Event()
    paths = [overlay / "changing", tmp_path / "changing"]
    for path in paths:
        path.write_bytes(DATA)
    threads = [threading.Thread(target=_change, args=(path, over)) for path in paths]
    for thread in threads:
        thread.start()
    try:
        run(main())
    finally:
        over.set()
        for thread in threads:
            thread.join()


def test_overlay(run: Run, overlay: Path) -> None:
    """In place only if all of it is in memory, which its own file system doesn't tell."""

    async def main() -> None:
        with opened(overlay / "file", os.O_RDONLY) as fd:
            reads: list[tuple[Callable[[], Awaitable[bytes]], bytes]] = [
                (lambda: files.pread(fd, 5000, 100), DATA[100:5100]),
                (lambda: files.read_bytes(overlay / "file"), DATA),
            ]
            for read, expected in reads:
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                reading = read()
                assert not is_in_place(reading)
                assert await reading == expected
                reading = read()
                assert is_in_place(reading)
                assert await reading == expected
        with opened(overlay / "file") as fd:  # copied up, into memory
            writing = files.pwrite(fd, b"new", 0)
            assert not is_in_place(writing)
            assert await writing == 3
            assert (await files.read_bytes(overlay / "file"))[:5] == b"new34"
            assert await files.stat(fd) == (overlay / "file").stat()

    run(main())


# ---- cancel


def test_ten_thousand_cancels_write_nothing_twice(run: Run, tmp_path: Path) -> None:
    """At any instant: each record is there once, or it was cancelled; each buffer is let go of."""
    chance = random.Random(8)
    buffers: list[weakref.ref[Buffer]] = []
    cancelled: set[int] = set()

    async def append(fd: int, number: int) -> None:
        buffer = Buffer(number.to_bytes(8, "big"))
        buffers.append(weakref.ref(buffer))
        task = asyncio.ensure_future(files.pwrite(fd, buffer, -1))
        del buffer
        for _ in range(chance.randrange(4)):
            await asyncio.sleep(0)
        give_up = time.perf_counter() + chance.uniform(0, 0.0001)
        while time.perf_counter() < give_up:
            pass
        if not task.cancel():
            assert await task == 8
            return
        cancelled.add(number)
        await asyncio.wait([task])

    async def main() -> None:
        with opened(tmp_path / "file", os.O_RDWR | os.O_CREAT | os.O_APPEND) as fd:
            await files.fsync(fd)
            before = count_descriptors()
            for begin in range(0, 10_000, 100):
                await asyncio.gather(*(append(fd, number) for number in range(begin, begin + 100)))
            await until(lambda: not any(buffer() for buffer in buffers))
            assert count_descriptors() <= before
            data = await files.pread(fd, 1 << 20, 0)
        written = [int.from_bytes(data[i : i + 8], "big") for i in range(0, len(data), 8)]
        assert len(written) == len(set(written))
        assert set(range(10_000)) - cancelled <= set(written) <= set(range(10_000))
        assert 0 < len(cancelled) < 10_000

    run(main())
