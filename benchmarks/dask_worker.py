"""A Dask worker with iowq's executor beside one with Dask's own: empty tasks, and their cancel.

Both clusters are there all the time and take turns; the ratio is the median of the rounds'
ratios. Needs two cores to itself.
"""

from __future__ import annotations

import argparse
import itertools
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from dask.base import annotate
from distributed import Client, LocalCluster, Nanny, Worker
from rich.console import Console
from rich.table import Table

import iowq.dask


def _empty(*_: object) -> None:
    pass


def seconds_each(client: Client, count: int) -> float:
    """Seconds that each of so many empty tasks takes."""
    begun = time.perf_counter()
    client.gather(client.map(_empty, range(count), pure=False))
    return (time.perf_counter() - begun) / count


def worker_seconds_each(client: Client, count: int) -> float:
    """Seconds of a processor that the worker takes for each: others' load says little in them."""
    (before,) = client.run(time.process_time).values()
    seconds_each(client, count)
    (after,) = client.run(time.process_time).values()
    return float(after - before) / count


def seconds_in_chain(client: Client, count: int) -> float:
    """The same, when each depends on the one before."""
    begun = time.perf_counter()
    last = client.submit(_empty, pure=False)
    for _ in range(count):
        last = client.submit(_empty, last, pure=False)
    last.result()
    return (time.perf_counter() - begun) / count


def seconds_with_key(client: Client, count: int) -> float:
    """The same, when all have one key."""
    begun = time.perf_counter()
    with annotate(iowq_key="key"):
        futures = [client.submit(_empty, pure=False) for _ in range(count)]
    client.gather(futures)
    return (time.perf_counter() - begun) / count


def _wait(path: Path, wait: Callable[[], object]) -> None:
    """Writes when it began, and when it was ended, by the clock that all processes have."""
    path.touch()
    try:
        wait()
    finally:
        ended = time.monotonic()
        path.with_suffix(".new").write_text(str(ended))
        path.with_suffix(".new").rename(path.with_suffix(".ended"))


def _sleep() -> None:
    time.sleep(1000)


def _loop() -> None:
    while True:
        pass


def seconds_to_cancel(client: Client, path: Path, wait: Callable[[], object]) -> float:
    """Seconds from ``future.cancel()`` to the first instruction of the task's ``finally``."""
    future = client.submit(_wait, path, wait, pure=False)
    while not path.exists():
        time.sleep(0.001)
    time.sleep(0.02)  # it is blocked
    cancelled = time.monotonic()
    future.cancel()
    ended = path.with_suffix(".ended")
    while not ended.exists():
        time.sleep(0.001)
    return float(ended.read_text()) - cancelled


def _cluster(stack: ExitStack, options: argparse.Namespace) -> Client:
    cluster = LocalCluster(
        n_workers=1,
        threads_per_worker=options.threads,
        dashboard_address=":0",
        worker_class=Nanny if options.processes else Worker,
    )
    client: Client = stack.enter_context(Client(stack.enter_context(cluster)))
    return client


def _interleaved(
    rounds: int, sides: dict[str, Callable[[], float]], against: str
) -> dict[str, tuple[float, float]]:
    """Returns each side's median, and the median of its ratios to the one that it is against."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for name in itertools.chain(sides, *[sides] * rounds):  # the first round warms up
        times[name].append(sides[name]())
    return {
        name: (
            statistics.median(own[1:]),
            statistics.median(b / a for a, b in zip(own[1:], times[against][1:], strict=True)),
        )
        for name, own in times.items()
    }


def main() -> None:
    """Measures, and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--tasks", type=int, default=1000, help="of each round")
    parser.add_argument("--threads", type=int, default=4, help="of each worker")
    parser.add_argument("--cancels", type=int, default=100)
    parser.add_argument("--processes", action=argparse.BooleanOptionalAction, default=True)
    options = parser.parse_args()
    rates = Table(title=f"CPython {platform.python_version()}")
    for column in ("a task", "median", "times Dask's own rate"):
        rates.add_column(column, justify="left" if column == "a task" else "right")
    cancels = Table(title=f"{options.cancels} cancels")
    for column in ("cancel of", "median", "99th percentile", "worst"):
        cancels.add_column(column, justify="left" if column == "cancel of" else "right")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        own, ours = _cluster(stack, options), _cluster(stack, options)
        iowq.dask.register(ours)
        measured: dict[str, dict[str, Callable[[], float]]] = {
            "empty": {
                "Dask's own executor": lambda: seconds_each(own, options.tasks),
                "iowq": lambda: seconds_each(ours, options.tasks),
            },
            "empty, CPU time of the worker": {
                "Dask's own executor": lambda: worker_seconds_each(own, options.tasks),
                "iowq": lambda: worker_seconds_each(ours, options.tasks),
            },
            "one after the other": {
                "Dask's own executor, a chain": lambda: seconds_in_chain(own, options.tasks // 5),
                "iowq, a key": lambda: seconds_with_key(ours, options.tasks // 5),
            },
        }
        for what, sides in measured.items():
            medians = _interleaved(options.rounds, sides, next(iter(sides)))
            for name, (median, ratio) in medians.items():
                rates.add_row(f"{what}: {name}", f"{median * 1e6:,.0f} us", f"{ratio:.2f}")
        paths = (folder / str(number) for number in itertools.count())
        for wait in (_sleep, _loop):
            times = sorted(
                seconds_to_cancel(ours, next(paths), wait) for _ in range(options.cancels)
            )
            chosen = statistics.median(times), times[len(times) * 99 // 100], times[-1]
            cancels.add_row(wait.__name__[1:], *(f"{value * 1e3:.1f} ms" for value in chosen))
    for table in (rates, cancels):
        Console(width=100).print(table)


if __name__ == "__main__":
    main()
