"""Files in programs on trio, and on anyio on trio: who is woken, and what cancel leaves."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import threading
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
import trio

from iowq import files
from sample import BYTES
from support import DEADLINE, wait_until

RunTrio = Callable[[Callable[[], Coroutine[Any, Any, None]]], None]


async def _within_deadline(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    with trio.fail_after(2 * DEADLINE):
        await main()


def _run_in_trio(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    trio.run(_within_deadline, main)


def _run_in_anyio(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    anyio.run(_within_deadline, main, backend="trio")


def _run_as_guest(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """With asyncio's loop as host, which runs on the same thread."""

    async def host() -> None:
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[Any] = loop.create_future()
        trio.lowlevel.start_guest_run(
            _within_deadline,
            main,
            run_sync_soon_threadsafe=loop.call_soon_threadsafe,
            done_callback=ended.set_result,
        )
        (await ended).unwrap()

    asyncio.run(host())


@pytest.fixture(params=[_run_in_trio, _run_in_anyio, _run_as_guest], ids=["trio", "anyio", "guest"])
def run_trio(request: pytest.FixtureRequest) -> RunTrio:
    runner: RunTrio = request.param
    return runner


def forget(fd: int) -> None:
    """Has the kernel forget what is in its page cache of the file."""
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


async def gather(*awaitables: Awaitable[Any]) -> list[Any]:
    results: list[Any] = [None] * len(awaitables)

    async def one(number: int, awaitable: Awaitable[Any]) -> None:
        results[number] = await awaitable

    async with trio.open_nursery() as nursery:
        for number, awaitable in enumerate(awaitables):
            nursery.start_soon(one, number, awaitable)
    return results


def test_bytes_go_where_they_should(run_trio: RunTrio, path: Path, fd: int, tmp_path: Path) -> None:
    async def main() -> None:
        forget(fd)
        offsets = range(0, len(BYTES), 1000)
        parts = await gather(*(files.pread(fd, 1000, offset) for offset in offsets))
        assert b"".join(parts) == BYTES
        assert await files.pread(fd, 10, len(BYTES) - 5) == BYTES[-5:]
        assert await files.write_bytes(tmp_path / "other", b"other") == 5
        assert await files.read_bytes(tmp_path / "other") == b"other"
        assert await files.stat(path) == path.stat()
        with pytest.raises(FileNotFoundError) as caught:
            await files.rename(tmp_path / "none", path)
        assert caught.value.filename == str(tmp_path / "none")

    run_trio(main)


def test_a_result_can_be_awaited_again(run_trio: RunTrio, fd: int) -> None:
    async def main() -> None:
        syncing = files.fsync(fd)
        assert await gather(syncing, syncing) == [0, 0]
        assert await syncing == 0

    run_trio(main)


def test_cancel_ends_what_waits(run_trio: RunTrio, pipe: tuple[int, int]) -> None:
    """Hundred readers of one pipe, more than there are workers for files."""

    async def read() -> None:
        await files.pread(pipe[0], 1, -1)

    async def main() -> None:
        with trio.move_on_after(0.01) as scope:
            async with trio.open_nursery() as nursery:
                for _ in range(100):
                    nursery.start_soon(read)
        assert scope.cancelled_caught
        os.write(pipe[1], b"xy")
        assert await files.pread(pipe[0], 2, -1) == b"xy"

    run_trio(main)


def test_cancel_loses_nothing_of_a_pipe(run_trio: RunTrio, pipe: tuple[int, int]) -> None:
    """Whether it comes before a byte or after it: who gives up has not taken it."""
    chance, data, got = random.Random(4), os.urandom(500), bytearray()

    async def write() -> None:
        for byte in data:
            os.write(pipe[1], bytes([byte]))
            await trio.sleep(chance.uniform(0, 0.0005))

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            while len(got) < len(data):
                with trio.move_on_after(chance.uniform(0, 0.0005)):
                    got.extend(await files.pread(pipe[0], 1, -1))
        assert got == data

    run_trio(main)


def test_cancel_abandons_a_disk(run_trio: RunTrio, fd: int) -> None:
    async def sync() -> None:
        await files.fsync(fd)

    async def main() -> None:
        for _ in range(200):
            os.pwrite(fd, b"x", 0)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(sync)
                await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
        await files.fsync(fd)

    run_trio(main)


class _Wakings(trio.abc.Instrument):
    """Counts how often the task that takes the completions runs."""

    count = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.count += task.name == "iowq's completions"


def test_it_is_woken_once_for_all_that_have_completed(run_trio: RunTrio, tmp_path: Path) -> None:
    paths = [tmp_path / str(number) for number in range(300)]

    async def main() -> None:
        await files.write_bytes(tmp_path / "other", b"")
        wakings = _Wakings()
        trio.lowlevel.add_instrument(wakings)
        writes = [files.write_bytes(path, b"12") for path in paths]
        wait_until(lambda: all(path.exists() and path.stat().st_size for path in paths))
        assert await gather(*writes) == [2] * len(paths)
        assert wakings.count < 10  # the last ones may have been written, and not yet completed
        trio.lowlevel.remove_instrument(wakings)

    run_trio(main)


def test_who_reads_what_is_in_memory_lets_others_run(run_trio: RunTrio, fd: int) -> None:
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(others)
            for _ in range(640):
                await files.pread(fd, 10, 0)
            assert turns >= 9
            nursery.cancel_scope.cancel()
        with trio.move_on_after(0.01) as scope:
            while True:
                assert await files.pread(fd, 10, 0) == BYTES[:10]
        assert scope.cancelled_caught

    run_trio(main)


def test_a_run_may_end_with_operations_under_way(
    run_trio: RunTrio, path: Path, pipe: tuple[int, int]
) -> None:
    async def begin() -> None:
        for _ in range(5):
            files.pread(pipe[0], 1, -1)
        await trio.sleep(0.001)

    async def end() -> None:
        assert await files.read_bytes(path) == BYTES
        files.fsync(pipe[0])  # fails, and nobody is there any more
        os.write(pipe[1], b"12345")

    def count() -> int:
        run_trio(end)
        gc.collect()
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208

    before = count()
    for _ in range(3):
        run_trio(begin)
    wait_until(lambda: count() <= before + 1)


def test_runs_of_two_threads(run_trio: RunTrio, fd: int) -> None:
    failures: list[BaseException] = []

    async def main(seed: int) -> None:
        chosen = random.Random(seed)
        for _ in range(100):
            offsets = [chosen.randrange(len(BYTES)) for _ in range(10)]
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            parts = await gather(*(files.pread(fd, 50, offset) for offset in offsets))
            assert parts == [BYTES[offset : offset + 50] for offset in offsets]

    def thread(seed: int) -> None:
        try:
            run_trio(partial(main, seed))
        except BaseException as error:
            failures.append(error)

    os.fsync(fd)
    threads = [threading.Thread(target=thread, args=(seed,)) for seed in range(2)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert not failures
