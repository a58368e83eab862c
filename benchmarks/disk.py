"""Reads of 4 KiB that the page cache doesn't have, and that it has, 64 at a time.

By threads' executors, and from asyncio; each way turn by turn. Ratios are medians of the
rounds'. Threads: the most that a queue has had, of the 64 that it may have.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager

from rich.console import Console
from rich.progress import track
from rich.table import Table

import iowq
import iowq.aio

BLOCK = 4096
WORKERS = AT_A_TIME = 64
BASE = "ThreadPoolExecutor"
#: Reads the block at this offset.
Read = Callable[[int], object]


@contextmanager
def _file(megabytes: int) -> Iterator[int]:
    """Gives a file on a disk: of /tmp that isn't sure."""
    with tempfile.TemporaryFile(dir="/var/tmp") as file:
        for _ in range(megabytes):
            file.write(os.urandom(1 << 20))
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        yield file.fileno()


def _from_a_thread(executor: Executor, read: Read, offsets: list[int]) -> None:
    for future in [executor.submit(read, offset) for offset in offsets]:
        future.result()


def _from_asyncio(executor: Executor, read: Read, offsets: list[int]) -> None:
    left = iter(offsets)

    async def some() -> None:
        for offset in left:
            if isinstance(executor, iowq.WorkQueue):
                await iowq.aio.run(executor, read, offset)
            else:
                await asyncio.get_running_loop().run_in_executor(executor, read, offset)

    async def all_of_them() -> None:
        await asyncio.gather(*[some() for _ in range(AT_A_TIME)])

    asyncio.run(all_of_them())


def _threads(executor: Executor) -> int:
    if isinstance(executor, iowq.WorkQueue):
        return executor.stats().created
    return len(executor._threads)  # type: ignore[attr-defined]


class Bench:
    """One file, and the ways to read it."""

    def __init__(self, fd: int, megabytes: int, count: int) -> None:
        self._fd = fd
        self._blocks = range(0, megabytes << 20, BLOCK)
        self._count = count
        self.ways: dict[str, tuple[Callable[[], Executor], Read]] = {
            BASE: (lambda: ThreadPoolExecutor(WORKERS), self._read),
            "WorkQueue": (lambda: iowq.WorkQueue(WORKERS), self._read),
            "WorkQueue, blocking()": (lambda: iowq.WorkQueue(WORKERS), self._read_announced),
        }

    def _read(self, offset: int) -> None:
        os.pread(self._fd, BLOCK, offset)

    def _read_announced(self, offset: int) -> None:
        with iowq.blocking():
            os.pread(self._fd, BLOCK, offset)

    def _offsets(self, cached: bool) -> list[int]:
        if not cached:
            os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)
            return random.sample(self._blocks, self._count)
        os.pread(self._fd, 1 << 20, 0)
        return random.choices(range(0, 1 << 20, BLOCK), k=self._count)

    def rate(self, way: str, cached: bool, run: Callable[..., None]) -> tuple[float, int]:
        """Reads a second, and threads."""
        make, read = self.ways[way]
        with make() as executor:
            offsets = self._offsets(cached)
            begun = time.perf_counter()
            run(executor, read, offsets)
            return self._count / (time.perf_counter() - begun), _threads(executor)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--count", type=int, default=4000)
    parser.add_argument("--megabytes", type=int, default=512)
    options = parser.parse_args()
    table = Table("", "reads/s", f"of {BASE}'s", "threads")
    with _file(options.megabytes) as fd:
        bench = Bench(fd, options.megabytes, options.count)
        for cached in (False, True):
            for run in (_from_a_thread, _from_asyncio):
                found: dict[str, list[tuple[float, int]]] = {way: [] for way in bench.ways}
                what = f"{'cached' if cached else 'not cached'}, {run.__name__[1:]}"
                for _ in track(range(options.rounds), what, console=Console(stderr=True)):
                    for way, rates in found.items():
                        rates.append(bench.rate(way, cached, run))
                for way, rates in found.items():
                    ratio = statistics.median(
                        own[0] / base[0] for own, base in zip(rates, found[BASE], strict=True)
                    )
                    rate, threads = (statistics.median(of) for of in zip(*rates, strict=True))
                    table.add_row(
                        f"{what}: {way}", f"{rate:,.0f}", f"{ratio:.2f}", f"{threads:.0f}"
                    )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
