"""Files: what is read and written, where, and what cancel, errors, exit and fork leave of it."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import random
import sys
import threading
from concurrent.futures import CancelledError, Future
from concurrent.futures import wait as wait_for_all
from pathlib import Path
from typing import Any, cast

import pytest

from iowq import files
from loops import NEW_LOOPS, AlarmError, Run, alarms
from sample import BYTES
from support import DEADLINE, succeed, wait_until


def count_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def outside(operation: object) -> Any:
    """What a function returns where there is no event loop."""
    return cast("Future[Any]", operation).result(DEADLINE)


def test_bytes_go_where_they_should(run: Run, path: Path, fd: int) -> None:
    async def main() -> None:
        assert await files.pread(fd, 1000, 5) == BYTES[5:1005]
        assert await files.pread(fd, 1000, len(BYTES) - 5) == BYTES[-5:]
        assert await files.pread(fd, 1000, len(BYTES)) == b""
        assert await files.pread(fd, 0, 0) == b""
        buffer = bytearray(len(BYTES) + 1)
        assert await files.preadinto(fd, buffer, 0) == len(BYTES)
        assert buffer[:-1] == BYTES
        assert await files.pread(fd, 3, -1) + await files.pread(fd, 3, -1) == BYTES[:6]
        assert await files.pwrite(fd, memoryview(b"0123456789")[2:5], 10) == 3
        assert await files.ftruncate(fd, 20) == 0
        assert await files.fsync(fd) == await files.fdatasync(fd) == 0
        assert await files.read_bytes(path) == BYTES[:10] + b"234" + BYTES[13:20]

    run(main())


def test_paths(run: Run, path: Path, tmp_path: Path) -> None:
    other = tmp_path / "ötherś"

    async def main() -> None:
        assert await files.write_bytes(str(other), b"one") == 3
        assert await files.write_bytes(os.fsencode(other), b"two", flags=os.O_APPEND) == 3
        assert await files.read_bytes(other) == b"onetwo"
        with pytest.raises(FileExistsError):
            await files.write_bytes(other, b"", flags=os.O_EXCL)
        await files.rename(other, path)
        assert await files.read_bytes(path) == b"onetwo"
        seen, real = await files.stat(path), path.stat()
        assert seen == real
        assert seen.st_mtime_ns == real.st_mtime_ns
        assert seen.st_mtime == real.st_mtime
        assert seen.st_blocks == real.st_blocks
        other.symlink_to(path)
        assert await files.stat(other) == real
        assert await files.stat(other, follow_symlinks=False) == other.lstat()
        await files.unlink(path)
        assert not path.exists()

    run(main())


def test_copies(run: Run, fd: int, tmp_path: Path) -> None:
    async def main() -> None:
        with (tmp_path / "copy").open("w+b") as copy:
            to = copy.fileno()
            count = len(BYTES)
            assert await files.copy_file_range(fd, to, 10**6, source_offset=0) == count
            assert await files.sendfile(to, fd, count - 9, 100) == 9
            assert await files.pread(to, 10**6, 0) == BYTES + BYTES[-9:]

    run(main())


def test_outside_of_a_loop_there_are_futures(path: Path, fd: int) -> None:
    assert outside(files.pread(fd, 10, 0)) == BYTES[:10]
    assert outside(files.write_bytes(path, b"new")) == 3
    assert outside(files.read_bytes(path)) == b"new"
    futures = [cast("Future[Any]", files.stat(fd)), cast("Future[Any]", files.fsync(fd))]
    assert wait_for_all(futures, DEADLINE).not_done == set()
    with pytest.raises(FileNotFoundError, match="/none"):
        outside(files.read_bytes("/none"))


def test_outside_cancel_ends_what_waits(pipe: tuple[int, int]) -> None:
    reading = cast("Future[Any]", files.pread(pipe[0], 10, -1))
    wait_until(reading.running)
    reading.cancel()
    with pytest.raises(CancelledError):
        reading.result(DEADLINE)
    os.write(pipe[1], b"for others")
    assert outside(files.pread(pipe[0], 10, -1)) == b"for others"


def test_outside_a_pipe_is_read_in_order(pipe: tuple[int, int], tmp_path: Path) -> None:
    """And however many wait for it, files have their workers."""
    reads = [cast("Future[Any]", files.pread(pipe[0], 1, -1)) for _ in range(100)]
    assert outside(files.write_bytes(tmp_path / "file", b"x")) == 1
    data = bytes(range(100))
    os.write(pipe[1], data)
    assert b"".join(read.result(DEADLINE) for read in reads) == data


def test_a_pipe_is_used_in_order(run: Run, pipe: tuple[int, int]) -> None:
    """What is there already is the one's who came first."""

    async def main() -> None:
        for number in range(100):
            first = asyncio.ensure_future(files.pread(pipe[0], 1, -1))
            os.write(pipe[1], bytes([number, 0]))
            second = asyncio.ensure_future(files.pread(pipe[0], 1, -1))
            assert [await first, await second] == [bytes([number]), b"\0"]

    run(main())


def test_a_result_can_be_awaited_again(run: Run, path: Path, fd: int) -> None:
    async def main() -> None:
        for operation in (files.read_bytes(path), files.pread(fd, 10, 0), files.stat(fd)):
            first = await operation
            assert await operation == first

    run(main())


def test_a_large_read_is_not_done_in_place(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(bytes(5 << 20))

    async def main() -> None:
        with path.open("rb") as file:
            assert isinstance(files.pread(file.fileno(), 5 << 20, 0), asyncio.Future)
            assert len(await files.pread(file.fileno(), 5 << 20, 0)) == 5 << 20

    run(main())


def test_errors_are_those_of_os(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        for call in (
            lambda: files.pread(-1, 1, 0),
            lambda: files.pwrite(-1, b"1", 0),
            lambda: files.fsync(-1),
            lambda: files.stat(-1),
            lambda: files.stat(-13),
        ):
            with pytest.raises(OSError, match="Bad file descriptor"):
                await call()
        with pytest.raises(FileNotFoundError) as caught:
            await files.rename(tmp_path / "none", tmp_path / "other")
        assert caught.value.filename == str(tmp_path / "none")
        assert caught.value.filename2 == str(tmp_path / "other")
        for _ in range(2):  # the second time the kernel knows that there is none
            with pytest.raises(FileNotFoundError) as caught:
                await files.read_bytes(tmp_path / "none")
            assert caught.value.filename == str(tmp_path / "none")
        with pytest.raises(IsADirectoryError):
            await files.read_bytes(tmp_path)
        full = os.open("/dev/full", os.O_WRONLY)
        with pytest.raises(OSError, match="No space left") as full_error:
            await files.pwrite(full, b"1", 0)
        assert full_error.value.errno == errno.ENOSPC
        os.close(full)

    run(main())


def test_arguments_are_checked(fd: int, path: Path) -> None:
    with pytest.raises(ValueError, match="and offset -1 or more, not -2"):
        files.pread(fd, 1, -2)
    with pytest.raises(ValueError, match="offset must be -1 or more, not -3"):
        files.pwrite(fd, b"1", -3)
    with pytest.raises(ValueError, match="size must be 0 or more, not -1"):
        files.pread(fd, -1, 0)
    with pytest.raises(ValueError, match="count must be 0 or more, not -5"):
        files.sendfile(fd, fd, 0, -5)
    with pytest.raises(ValueError, match="null byte"):
        files.read_bytes("a\0b")
    with pytest.raises(TypeError, match="int"):
        files.pread(str(path), 1, 0)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="PathLike object, not object"):
        files.read_bytes(object())  # type: ignore[arg-type]
    with pytest.raises((TypeError, BufferError), match="not writable"):
        files.preadinto(fd, b"constant", 0)
    with pytest.raises(TypeError):
        files.pwrite(fd, "text", 0)  # type: ignore[arg-type]
    with pytest.raises(OverflowError):
        files.pread(2**32 + fd, 1, 0)
    with pytest.raises(MemoryError):
        files.pread(fd, 1 << 62, 0)


def test_cancel_ends_what_waits(run: Run, pipe: tuple[int, int]) -> None:
    """Hundred readers of one pipe, more than there are workers for files."""

    async def main() -> None:
        tasks = [asyncio.ensure_future(files.pread(pipe[0], 1, -1)) for _ in range(100)]
        await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
        assert all(
            isinstance(error, asyncio.CancelledError)
            for error in await asyncio.gather(*tasks, return_exceptions=True)
        )
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(files.pread(pipe[0], 1, -1), 0.01)
        # an operation that was given up may still have taken a byte: no byte is there yet
        reader = asyncio.ensure_future(files.pread(pipe[0], 10, -1))
        await asyncio.sleep(0)
        os.write(pipe[1], b"x")
        assert await reader == b"x"

    run(main())


def test_ten_thousand_cancels(run: Run, path: Path, fd: int) -> None:
    """At any instant: no descriptor is lost, nothing is torn, and memory is let go of."""
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    chosen = random.Random(7)

    async def one(number: int) -> None:
        offset = number * 16
        calls = (
            lambda: files.pread(fd, 4096, offset),
            lambda: files.pwrite(fd, number.to_bytes(16, "big"), offset),
            lambda: files.read_bytes(path),
            lambda: files.stat(path),
            lambda: files.fdatasync(fd),
        )
        task = asyncio.ensure_future(chosen.choice(calls)())
        for _ in range(chosen.randrange(3)):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])

    async def main() -> None:
        await files.fsync(fd)  # so that the loop has its inbox
        before = count_descriptors()
        for begin in range(0, 10_000, 100):
            await asyncio.gather(*(one(number) for number in range(begin, begin + 100)))
        await files.fsync(fd)
        while count_descriptors() > before:  # of what was abandoned
            await asyncio.sleep(0.001)
        for number in range(10_000):
            seen = await files.pread(fd, 16, number * 16)
            assert seen in (BYTES[number * 16 : number * 16 + 16], number.to_bytes(16, "big"))

    run(main())


def test_who_reads_what_is_in_memory_lets_others_run(run: Run, fd: int) -> None:
    async def main() -> None:
        turns = 0

        async def others() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.ensure_future(others())
        for _ in range(640):
            await files.pread(fd, 10, 0)
        assert turns >= 9
        task.cancel()

    run(main())


def test_loops_of_two_threads(fd: int) -> None:
    failures: list[BaseException] = []

    async def main(seed: int) -> None:
        chosen = random.Random(seed)
        for _ in range(300):
            offsets = [chosen.randrange(len(BYTES)) for _ in range(10)]
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            parts = await asyncio.gather(*(files.pread(fd, 50, offset) for offset in offsets))
            assert parts == [BYTES[offset : offset + 50] for offset in offsets]

    def thread(seed: int) -> None:
        try:
            asyncio.run(main(seed))
        except BaseException as error:
            failures.append(error)

    os.fsync(fd)
    threads = [threading.Thread(target=thread, args=(seed,)) for seed in range(2)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert not failures


@pytest.mark.parametrize("new_loop", NEW_LOOPS.values(), ids=list(NEW_LOOPS))
def test_a_loop_may_close_with_operations_under_way(new_loop: Any, pipe: tuple[int, int]) -> None:
    async def begin() -> None:
        for _ in range(5):
            files.pread(pipe[0], 1, -1)
        await asyncio.sleep(0.01)

    gc.collect()
    before = count_descriptors()
    for _ in range(3):
        loop = new_loop()
        loop.run_until_complete(begin())
        loop.close()
        os.write(pipe[1], b"12345")
        del loop

    async def main() -> bytes:
        return await asyncio.wait_for(files.pread(pipe[0], 1, -1), DEADLINE)

    def use_another_loop() -> int:
        os.write(pipe[1], b"1")
        new = new_loop()
        assert new.run_until_complete(main()) == b"1"
        new.close()
        del new
        gc.collect()
        return count_descriptors()

    # the inbox of the latest one, and of the one before, may wait for the next loop
    wait_until(lambda: use_another_loop() <= before + 2)


def test_loops_that_begin_in_many_threads(path: Path) -> None:
    failures: list[BaseException] = []
    interval = sys.getswitchinterval()

    def thread() -> None:
        try:
            for _ in range(50):
                asyncio.run(main())
        except BaseException as error:
            failures.append(error)

    async def main() -> None:
        with path.open("rb") as file:
            await files.fsync(file.fileno())

    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=thread) for _ in range(6)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
    finally:
        sys.setswitchinterval(interval)
    assert not failures


def test_what_was_begun_is_written_at_exit(tmp_path: Path) -> None:
    program = """
        import asyncio, os
        from iowq import files

        reading, _ = os.pipe()
        os.mkfifo(os.environ["PLACE"] + "/fifo")

        async def main():
            files.pread(reading, 1, -1)  # waits for ever
            files.read_bytes(os.environ["PLACE"] + "/fifo")
            for number in range(100):
                files.write_bytes(f"{os.environ['PLACE']}/{number}", b"x" * 100_000)

        asyncio.run(main())
    """
    succeed(program, tmp_path)
    (tmp_path / "fifo").unlink()
    assert [path.stat().st_size for path in tmp_path.iterdir()] == [100_000] * 100


def test_a_forked_child_has_files_of_its_own(path: Path) -> None:
    program = """
        import asyncio, os
        from iowq import files

        async def main():
            await files.write_bytes(os.environ["PLACE"], b"parent")

        asyncio.run(main())
        if child := os.fork():
            assert os.waitpid(child, 0)[1] == 0
            assert open(os.environ["PLACE"]).read() == "child"
        else:
            async def main():
                await files.write_bytes(os.environ["PLACE"], b"child")
            asyncio.run(main())
    """
    succeed(program, path)


def test_a_signal_handler_that_raises_on_the_loop_loses_nothing(fd: int) -> None:
    """At any instruction of a delivery: the loop ends, is run again, and has all of them."""

    async def begin() -> list[Any]:
        return [files.fdatasync(fd) for _ in range(100)]

    async def end(futures: list[Any]) -> None:
        assert await asyncio.gather(*futures) == [0] * 100

    chance = random.Random(3)
    with alarms(AlarmError) as ringing:
        for _ in range(50):
            futures = ringing.loop.run_until_complete(begin())
            ringing.run_forever(chance.uniform(0.00001, 0.002))
            ringing.loop.run_until_complete(asyncio.wait_for(end(futures), DEADLINE))
