"""Side by side, in one run, turn by turn: what iowq costs, and what the others do.

Prints a table of medians of ratios; ``--save FOLDER`` also writes it there as Markdown,
with a plot. Needs gcc and liburing's headers for the part that is in C, two cores to
itself, and some minutes.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

import blocking
import rates
from iowq import WorkQueue

ROOT = Path(__file__).resolve().parent.parent

#: Takes nothing, returns nanoseconds, or a number of threads.
Measure = Callable[[], float]


@dataclass(frozen=True)
class Comparison:
    """Two ways to do a thing."""

    name: str
    ours: Measure
    theirs: Measure
    their_name: str
    goal: str
    is_cost: bool = False
    """Whether the ratio is ours / theirs; else it is theirs / ours: how often as fast."""
    unit: str = "us"


@dataclass(frozen=True)
class Finding:
    """What came out of a comparison."""

    comparison: Comparison
    ours: float
    theirs: float
    ratio: float

    def cells(self) -> list[str]:
        """The row of the table."""
        of = self.comparison
        ratio = f"{self.ratio:.2f} times " + ("the cost" if of.is_cost else "as fast")
        values = [self._value(self.ours), of.their_name, self._value(self.theirs)]
        return [of.name, *values, ratio, of.goal]

    def _value(self, value: float) -> str:
        if self.comparison.unit == "us":
            return f"{value / 1000:,.2f} us"
        return f"{value:.0f} {self.comparison.unit}"


class Core:
    """The C program beside this file, built for this run."""

    def __init__(self, folder: Path) -> None:
        self._program = folder / "core"
        sources = [str(source) for source in sorted((ROOT / "csrc").rglob("*.c"))]
        command = ["gcc", "-O2", "-pthread", f"-I{ROOT / 'csrc'}", str(ROOT / "benchmarks/core.c")]
        libraries = ["-luring", "-ldl", "-o", str(self._program)]
        subprocess.run([*command, *sources, *libraries], check=True)

    def __call__(self, *arguments: object) -> Measure:
        def measure() -> float:
            command = [str(self._program), *map(str, arguments)]
            result = subprocess.run(command, check=True, capture_output=True, text=True)
            return float(result.stdout.split()[1])

        return measure


POOL = "ThreadPoolExecutor"
KERNEL = "kernel io-wq, NOP + IOSQE_ASYNC"


def empty_works() -> list[Comparison]:
    """Python callables that do nothing."""
    return [
        Comparison(
            "enqueue + flush of empty callables, batches of 1,000",
            lambda: rates.enqueue_and_flush(100_000, 1_000),
            lambda: rates.submit_and_result(ThreadPoolExecutor, 100_000, 1_000),
            f"{POOL}(4), submit + result",
            "at least 10",
        ),
        Comparison(
            "submit + result, batches of 1,000",
            lambda: rates.submit_and_result(WorkQueue, 100_000, 1_000),
            lambda: rates.submit_and_result(ThreadPoolExecutor, 100_000, 1_000),
            f"{POOL}(4)",
            "at least 7",
        ),
        Comparison(
            "map over numbers, batches of 1,000",
            lambda: rates.map_all(WorkQueue, 100_000, 1_000),
            lambda: rates.map_all(ThreadPoolExecutor, 100_000, 1_000),
            f"{POOL}(4)",
            "at least 7",
        ),
        Comparison(
            "enqueue + flush of empty callables, batches of 100,000",
            lambda: rates.enqueue_and_flush(100_000, 100_000),
            lambda: rates.submit_and_result(ThreadPoolExecutor, 100_000, 100_000),
            f"{POOL}(4), submit + result",
            "at least 18",
        ),
        Comparison(
            "submit + result, batches of 100,000",
            lambda: rates.submit_and_result(WorkQueue, 100_000, 100_000),
            lambda: rates.submit_and_result(ThreadPoolExecutor, 100_000, 100_000),
            f"{POOL}(4)",
            "at least 12",
        ),
        Comparison(
            "map over numbers, batches of 100,000",
            lambda: rates.map_all(WorkQueue, 100_000, 100_000),
            lambda: rates.map_all(ThreadPoolExecutor, 100_000, 100_000),
            f"{POOL}(4)",
            "at least 12",
        ),
        Comparison(
            "enqueue_hashed, 100,000 callables of 1,000 keys",
            lambda: rates.enqueue_hashed(100_000, 1_000),
            lambda: rates.submit_locked(100_000, 1_000),
            f"{POOL}(4), a lock per key",
            "at least 10",
        ),
        Comparison(
            "submit + result of 100,000 from 4 threads",
            lambda: rates.submit_from_four(WorkQueue, 100_000),
            lambda: rates.submit_from_four(ThreadPoolExecutor, 100_000),
            f"{POOL}(4)",
            "at least 8",
        ),
        Comparison(
            "one submit().result() round trip",
            lambda: rates.round_trip(WorkQueue, 5_000),
            lambda: rates.round_trip(ThreadPoolExecutor, 5_000),
            f"{POOL}(4)",
            "at least 3",
        ),
    ]


def blocking_works(url: str) -> list[Comparison]:
    """Python callables that wait for something."""
    fetch, append = blocking.fetch, blocking.append_hashed
    return [
        Comparison(
            "200 works that sleep 10 ms, 64 workers",
            lambda: blocking.sleeps(WorkQueue),
            lambda: blocking.sleeps(ThreadPoolExecutor),
            f"{POOL}(64)",
            "at most 1.1",
            is_cost=True,
        ),
        Comparison(
            "until 64 that sleep all run, after idleness",
            lambda: blocking.burst(blocking.idle_queue),
            lambda: blocking.burst(ThreadPoolExecutor),
            f"{POOL}(64), new",
            "at most 1",
            is_cost=True,
        ),
        Comparison(
            "the same",
            lambda: blocking.burst(blocking.idle_queue),
            lambda: blocking.burst(blocking.warm_queue),
            "64 workers that are there",
            "at most 1",
            is_cost=True,
        ),
        Comparison(
            "2,000 HTTP requests, 64 workers",
            lambda: fetch(WorkQueue, url).seconds / 2000 * 1e9,
            lambda: fetch(ThreadPoolExecutor, url).seconds / 2000 * 1e9,
            f"{POOL}(64)",
            "at least 1",
        ),
        Comparison(
            "threads for that",
            lambda: fetch(WorkQueue, url).threads,
            lambda: fetch(ThreadPoolExecutor, url).threads,
            f"{POOL}(64)",
            "at most 1",
            is_cost=True,
            unit="threads",
        ),
        Comparison(
            "128,000 appends to 64 files, in order",
            lambda: append().seconds / 128_000 * 1e9,
            lambda: blocking.append_locked().seconds / 128_000 * 1e9,
            f"{POOL}(32), a lock per file",
            "above 1",
        ),
        Comparison(
            "the same",
            lambda: append().seconds / 128_000 * 1e9,
            lambda: blocking.append_single().seconds / 128_000 * 1e9,
            f"64 times {POOL}(1)",
            "above 1",
        ),
        Comparison(
            "threads for that",
            lambda: append().threads,
            lambda: blocking.append_locked().threads,
            f"{POOL}(32), a lock per file",
            "at most 4 threads",
            is_cost=True,
            unit="threads",
        ),
        Comparison(
            "10,000 short works and 10 ms sleeps, 9 to 1",
            lambda: blocking.mixed_at_once(WorkQueue),
            lambda: blocking.mixed_at_once(ThreadPoolExecutor),
            f"{POOL}(32)",
            "above 1",
        ),
        Comparison(
            "wait of the short ones in bursts, 99 %",
            lambda: blocking.mixed_in_bursts(WorkQueue),
            lambda: blocking.mixed_in_bursts(ThreadPoolExecutor),
            f"{POOL}(32)",
            "below 1",
            is_cost=True,
        ),
    ]


def many_works(core: Core) -> list[Comparison]:
    """The same works, when there are many of something."""
    return [
        Comparison(
            "1,000,000 pending callables",
            lambda: rates.with_pending(1_000_000, 1_000_000),
            lambda: rates.with_pending(1_000_000, 1_000),
            "1,000 pending",
            "at most 1.2",
            is_cost=True,
        ),
        Comparison(
            "200,000 callables of 100,000 keys",
            lambda: rates.enqueue_hashed(200_000, 100_000),
            lambda: rates.enqueue_hashed(200_000, 1),
            "one key",
            "at most 1.2",
            is_cost=True,
        ),
        Comparison(
            "200,000 callables in 1,000 queues",
            lambda: rates.in_queues(200_000, 1_000),
            lambda: rates.in_queues(200_000, 1),
            "one queue",
            "at most 1.2",
            is_cost=True,
        ),
        Comparison(
            "C core, 1,000,000 pending works",
            core("pending", 1_000_000, 1_000_000),
            core("pending", 1_000_000, 1_000),
            "1,000 pending",
            "at most 1.2",
            is_cost=True,
        ),
        Comparison(
            "C core, 1,000,000 works of 100,000 values",
            core("hashed", 1_000_000, 100_000),
            core("hashed", 1_000_000, 1),
            "one value",
            "at most 1.2",
            is_cost=True,
        ),
    ]


def core_works(core: Core) -> list[Comparison]:
    """Without Python."""
    return [
        Comparison(
            "C core, 1,000,000 empty works",
            core("rate", 1_000_000),
            core("kernel-rate", 1_000_000),
            KERNEL,
            "at least 5",
        ),
        Comparison(
            "C core, round trip",
            core("round-trip", 20_000),
            core("kernel-round-trip", 20_000),
            KERNEL,
            "at least 2",
        ),
        Comparison(
            "C core, threads for 128,000 writes to 64 files",
            core("writes", 128_000),
            core("kernel-writes", 128_000),
            "kernel io-wq, buffered WRITE + IOSQE_ASYNC",
            "below 1",
            is_cost=True,
            unit="threads",
        ),
    ]


def measure(comparison: Comparison, rounds: int) -> Finding:
    """Measures both in turn, so that what else happens on the machine happens to both."""
    turns = track(range(rounds), comparison.name, transient=True)
    pairs = [(comparison.ours(), comparison.theirs()) for _ in turns]
    ratio = statistics.median(a / b if comparison.is_cost else b / a for a, b in pairs)
    ours, theirs = (statistics.median(values) for values in zip(*pairs, strict=True))
    return Finding(comparison, ours, theirs, ratio)


COLUMNS = ("measured", "iowq", "against", "", "ratio", "goal")


def save(folder: Path, title: str, findings: list[Finding], notes: list[str]) -> None:
    """Writes the table as Markdown, and a plot."""
    rows = [finding.cells() for finding in findings]
    lines = ["# Benchmarks", "", "![ratios](benchmarks.svg)", "", title, ""]
    lines += [f"| {' | '.join(COLUMNS)} |", "| --- " * len(COLUMNS) + "|"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    (folder / "benchmarks.md").write_text("\n".join([*lines, "", *notes, ""]))
    plot(folder / "benchmarks.svg", findings)


def plot(path: Path, findings: list[Finding]) -> None:
    """Draws how often as fast as the others everything is."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    chosen = [finding for finding in findings if finding.comparison.unit == "us"][::-1]
    speeds = [1 / f.ratio if f.comparison.is_cost else f.ratio for f in chosen]
    figure, axes = pyplot.subplots(figsize=(9, 0.4 * len(chosen) + 1), layout="constrained")
    bars = axes.barh(
        [f"{f.comparison.name}\n{f.comparison.their_name}" for f in chosen], speeds, color="#3b7a57"
    )
    axes.bar_label(bars, [f"{speed:.2f}" for speed in speeds], padding=3, fontsize=7)
    axes.set_xscale("log")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlabel("times as fast")
    axes.tick_params(axis="y", labelsize=6)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Measures, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", default="", help="comparisons whose name contains this")
    parser.add_argument("--save", type=Path, help="folder for benchmarks.md and benchmarks.svg")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, blocking.http_server() as url:
        core = Core(Path(folder))
        everything = [
            *empty_works(),
            *blocking_works(url),
            *core_works(core),
            *many_works(core),
        ]
        chosen = [c for c in everything if options.only in c.name]
        findings = [measure(comparison, options.rounds) for comparison in chosen]
    title = (
        f"CPython {platform.python_version()}, {os.cpu_count()} CPUs; {options.rounds} rounds,"
        " interleaved; times are medians per work, ratios are medians of the rounds' ratios."
    )
    table = Table(*COLUMNS, title=title)
    for finding in findings:
        table.add_row(*finding.cells())
    workers, switches = blocking.idle()
    notes = [
        f"A pending work takes {rates.bytes_per_pending_work():.0f} bytes.",
        f"When idle, {workers} worker is alive, and its process gets the processor {switches}"
        f" times in {blocking.IDLE_SECONDS - 1} seconds.",
    ]
    console = Console(width=170)
    console.print(table, *notes, sep="\n")
    if options.save:
        save(options.save, title, findings, notes)


if __name__ == "__main__":
    main()
