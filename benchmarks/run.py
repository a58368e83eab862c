"""Side by side, in one run, turn by turn: what iowq costs, and what the others do.

Prints a table of medians of ratios. Needs gcc and liburing's headers for the
part that is in C, two cores to itself, and some minutes.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

import iowq

ROOT = Path(__file__).resolve().parent.parent

#: Takes nothing, returns nanoseconds per work.
Measure = Callable[[], float]


@dataclass(frozen=True)
class Comparison:
    """Two ways to do a thing; the ratio is theirs / ours, or ours / theirs for a cost."""

    name: str
    ours: Measure
    theirs: Measure
    their_name: str
    goal: str
    is_cost: bool = False


def empty() -> None:
    """The work of most measurements."""


def _per_work(count: int, begun: float) -> float:
    return (time.perf_counter() - begun) / count * 1e9


def enqueue_and_flush(count: int) -> float:
    with iowq.WorkQueue(4) as wq:
        begun = time.perf_counter()
        for _ in range(count):
            wq.enqueue(empty)
        wq.flush()
        return _per_work(count, begun)


def enqueue_hashed(count: int, keys: int) -> float:
    names = [f"key {number}" for number in range(keys)]
    with iowq.WorkQueue(4) as wq:
        begun = time.perf_counter()
        for number in range(count):
            wq.enqueue_hashed(names[number % keys], empty)
        wq.flush()
        return _per_work(count, begun)


#: Makes an executor with four workers.
MakeExecutor = Callable[[int], Executor]


def submit_and_result(make: MakeExecutor, count: int) -> float:
    with make(4) as executor:
        begun = time.perf_counter()
        for future in [executor.submit(empty) for _ in range(count)]:
            future.result()
        return _per_work(count, begun)


def map_all(make: MakeExecutor, count: int) -> float:
    with make(4) as executor:
        begun = time.perf_counter()
        for _ in executor.map(abs, range(count)):
            pass
        return _per_work(count, begun)


def round_trip(make: MakeExecutor, count: int) -> float:
    with make(4) as executor:
        executor.submit(empty).result()
        begun = time.perf_counter()
        for _ in range(count):
            executor.submit(empty).result()
        return _per_work(count, begun)


def with_pending(count: int, batch: int) -> float:
    """Enqueues and runs count works, of which batch are pending at a time."""
    seconds = 0.0
    with iowq.WorkQueue(1) as wq:
        for _ in range(count // batch):
            gate = threading.Event()
            wq.enqueue(gate.wait)
            begun = time.perf_counter()
            for _ in range(batch):
                wq.enqueue(empty)
            gate.set()
            wq.flush()
            seconds += time.perf_counter() - begun
    return seconds / count * 1e9


#: In a process of its own, whose memory is not yet fragmented.
MEMORY = """
import iowq, resource, threading
def resident():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()
with iowq.WorkQueue(1) as wq:
    gate = threading.Event()
    wq.enqueue(gate.wait)
    before = resident()
    for _ in range(1_000_000):
        wq.enqueue(int)
    print((resident() - before) / 1_000_000)
    gate.set()
"""


def bytes_per_pending_work() -> float:
    """Resident memory that a million pending works take."""
    result = subprocess.run(
        [sys.executable, "-c", MEMORY], check=True, capture_output=True, text=True
    )
    return float(result.stdout)


class Core:
    """The C program beside this file, built for this run."""

    def __init__(self, folder: Path) -> None:
        self._program = folder / "core"
        sources = [str(source) for source in sorted((ROOT / "csrc").glob("*.c"))]
        command = ["gcc", "-O2", "-pthread", f"-I{ROOT / 'csrc'}", str(ROOT / "benchmarks/core.c")]
        libraries = ["-luring", "-ldl", "-o", str(self._program)]
        subprocess.run([*command, *sources, *libraries], check=True)

    def __call__(self, *arguments: object) -> Measure:
        def measure() -> float:
            command = [str(self._program), *map(str, arguments)]
            result = subprocess.run(command, check=True, capture_output=True, text=True)
            return float(result.stdout.split()[1])

        return measure


def comparisons(core: Core) -> list[Comparison]:
    """Returns everything that is measured."""
    return [
        Comparison(
            "enqueue + flush, 200,000 empty callables",
            lambda: enqueue_and_flush(200_000),
            lambda: submit_and_result(ThreadPoolExecutor, 200_000),
            "ThreadPoolExecutor(4), submit + result",
            "at least 5",
        ),
        Comparison(
            "submit + result, 100,000 empty callables",
            lambda: submit_and_result(iowq.WorkQueue, 100_000),
            lambda: submit_and_result(ThreadPoolExecutor, 100_000),
            "ThreadPoolExecutor(4)",
            "at least 5",
        ),
        Comparison(
            "map over 100,000 numbers",
            lambda: map_all(iowq.WorkQueue, 100_000),
            lambda: map_all(ThreadPoolExecutor, 100_000),
            "ThreadPoolExecutor(4)",
            "at least 5",
        ),
        Comparison(
            "one submit().result() round trip",
            lambda: round_trip(iowq.WorkQueue, 5_000),
            lambda: round_trip(ThreadPoolExecutor, 5_000),
            "ThreadPoolExecutor(4)",
            "cost at most 0.5",
            is_cost=True,
        ),
        Comparison(
            "C core, 1,000,000 empty works",
            core("rate", 1_000_000),
            core("kernel-rate", 1_000_000),
            "kernel io-wq, NOP + IOSQE_ASYNC",
            "at least 1",
        ),
        Comparison(
            "C core, round trip",
            core("round-trip", 20_000),
            core("kernel-round-trip", 20_000),
            "kernel io-wq, NOP + IOSQE_ASYNC",
            "",
        ),
        Comparison(
            "1,000,000 pending callables",
            lambda: with_pending(1_000_000, 1_000_000),
            lambda: with_pending(1_000_000, 1_000),
            "1,000 pending",
            "cost at most 1.5",
            is_cost=True,
        ),
        Comparison(
            "200,000 callables of 100,000 keys",
            lambda: enqueue_hashed(200_000, 100_000),
            lambda: enqueue_hashed(200_000, 1),
            "one key",
            "cost at most 2",
            is_cost=True,
        ),
        Comparison(
            "C core, 1,000,000 pending works",
            core("pending", 1_000_000, 1_000_000),
            core("pending", 1_000_000, 1_000),
            "1,000 pending",
            "cost at most 1.5",
            is_cost=True,
        ),
        Comparison(
            "C core, 1,000,000 works of 100,000 values",
            core("hashed", 1_000_000, 100_000),
            core("hashed", 1_000_000, 1),
            "one value",
            "cost at most 2",
            is_cost=True,
        ),
    ]


def _time(nanoseconds: float) -> str:
    return f"{nanoseconds / 1000:,.2f} us"


def main() -> None:
    """Measures, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", default="", help="comparisons whose name contains this")
    options = parser.parse_args()
    table = Table(title=f"CPython {platform.python_version()}, {options.rounds} rounds, medians")
    for column in ("measured", "iowq", "against", "", "ratio", "goal"):
        table.add_column(column)
    with tempfile.TemporaryDirectory() as folder:
        chosen = [c for c in comparisons(Core(Path(folder))) if options.only in c.name]
        for comparison in chosen:
            pairs = [
                (comparison.ours(), comparison.theirs())
                for _ in track(range(options.rounds), comparison.name, transient=True)
            ]
            ratio = statistics.median(a / b if comparison.is_cost else b / a for a, b in pairs)
            table.add_row(
                comparison.name,
                _time(statistics.median(ours for ours, _theirs in pairs)),
                comparison.their_name,
                _time(statistics.median(theirs for _ours, theirs in pairs)),
                f"{ratio:.2f}",
                comparison.goal,
            )
    console = Console(width=160)
    console.print(table)
    console.print(f"A pending work takes {bytes_per_pending_work():.0f} bytes.")


if __name__ == "__main__":
    main()
