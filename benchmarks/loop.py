"""`await` of a cached 4 KiB read, on asyncio and uvloop: what an operation costs.

Each way beside the standard library's, turn by turn; ratios are medians of the rounds'.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

import uvloop
from rich.console import Console
from rich.progress import track
from rich.table import Table

import iowq
import iowq.aio

Read = Callable[[], Awaitable[bytes]]
WORKERS = 16
AT_A_TIME = 64
BASE = "run_in_executor(ThreadPoolExecutor)"


async def _one_after_the_other(read: Read, count: int) -> float:
    begun = time.perf_counter()
    for _ in range(count):
        await read()
    return (time.perf_counter() - begun) / count * 1e6


async def _many(read: Read, count: int) -> float:
    async def some() -> None:
        for _ in range(count // AT_A_TIME):
            await read()

    begun = time.perf_counter()
    await asyncio.gather(*[some() for _ in range(AT_A_TIME)])
    return (time.perf_counter() - begun) / count * 1e6


async def _measure(fd: int, rounds: int, count: int) -> dict[str, list[tuple[float, float]]]:
    loop = asyncio.get_running_loop()
    found: dict[str, list[tuple[float, float]]] = {}
    with ThreadPoolExecutor(WORKERS) as pool, iowq.WorkQueue(WORKERS) as wq:
        executor = iowq.aio.LoopExecutor(wq)
        ways: dict[str, Read] = {
            BASE: lambda: loop.run_in_executor(pool, os.pread, fd, 4096, 0),
            "run_in_executor(WorkQueue)": lambda: loop.run_in_executor(wq, os.pread, fd, 4096, 0),
            "run_in_executor(LoopExecutor)": lambda: loop.run_in_executor(
                executor, os.pread, fd, 4096, 0
            ),
            "iowq.aio.run": lambda: iowq.aio.run(wq, os.pread, fd, 4096, 0),
        }
        for read in ways.values():
            await _one_after_the_other(read, 100)
        for _ in track(range(rounds), type(loop).__module__, console=Console(stderr=True)):
            for way, read in ways.items():
                times = await _one_after_the_other(read, count), await _many(read, 8 * count)
                found.setdefault(way, []).append(times)
    return found


def _rows(found: dict[str, list[tuple[float, float]]]) -> list[list[str]]:
    rows = []
    for way, times in found.items():
        row = [way]
        for kind in range(2):
            ratio = statistics.median(
                own[kind] / base[kind] for own, base in zip(times, found[BASE], strict=True)
            )
            row += [f"{statistics.median(t[kind] for t in times):.1f} us", f"{ratio:.2f}"]
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--count", type=int, default=1000)
    options = parser.parse_args()
    table = Table("", "one after the other", "of its time", f"{AT_A_TIME} at a time", "of its time")
    with tempfile.TemporaryFile() as file:
        file.write(bytes(4096))
        file.flush()
        for name, new_loop in (
            ("asyncio", asyncio.new_event_loop),
            ("uvloop", uvloop.new_event_loop),
        ):
            loop = new_loop()
            found = loop.run_until_complete(_measure(file.fileno(), options.rounds, options.count))
            loop.close()
            for row in _rows(found):
                table.add_row(f"{name}: {row[0]}", *row[1:])
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
