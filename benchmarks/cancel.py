"""How long cancel takes: until the worker that was cancelled has begun its next work.

Prints a table of medians and 99th percentiles. Needs two cores to itself.
"""

from __future__ import annotations

import argparse
import functools
import platform
import queue
import socket
import statistics
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

from rich.console import Console
from rich.progress import track
from rich.table import Table

import iowq


def _recv(sock: socket.socket) -> None:
    sock.recv(1)


def _loop() -> None:
    while True:
        pass


def _settle(wq: iowq.WorkQueue, running: int) -> None:
    """Waits until that many works run, and are blocked or compute for good."""
    while wq.stats().running < running:
        time.sleep(0.0001)
    time.sleep(0.002)


def latency(function: Callable[[], object]) -> float:
    """Seconds from cancel to the beginning of the worker's next work."""
    begun: list[float] = []
    with iowq.WorkQueue(1) as wq:
        wq.cancel(wq.enqueue(time.sleep, 0))  # threads are there
        wq.flush()
        work = wq.enqueue(function)
        _settle(wq, 1)
        wq.enqueue(lambda: begun.append(time.perf_counter()))
        called = time.perf_counter()
        wq.cancel(work)
        wq.flush()
    return begun[0] - called


def all_of(workers: int, begin: Callable[[], object] = lambda: None) -> float:
    """Seconds from cancel_all, before which begin is called, to all workers being free."""
    ours, theirs = socket.socketpair()
    with ours, theirs, iowq.WorkQueue(workers) as wq:
        for _ in range(workers):
            wq.enqueue(_recv, ours)
        _settle(wq, workers)
        begin()
        called = time.perf_counter()
        wq.cancel_all()
        wq.flush()
        return time.perf_counter() - called


def longest_stop(workers: int) -> float:
    """Seconds that another thread stands still at most while that many are cancelled."""
    stops: list[float] = [0.0]
    is_over = threading.Event()

    def watch() -> None:
        last = time.perf_counter()
        while not is_over.is_set():
            time.sleep(0.0005)
            now = time.perf_counter()
            stops.append(now - last)
            last = now

    watcher = threading.Thread(target=watch)
    watcher.start()
    all_of(workers, stops.clear)
    is_over.set()
    watcher.join()
    return max(stops)


def unexpired_timeout() -> float:
    """Seconds that a `with timeout()` costs."""
    count, seconds = 20_000, []

    def work() -> None:
        begun = time.perf_counter()
        for _ in range(count):
            with iowq.timeout(60):
                pass
        seconds.append((time.perf_counter() - begun) / count)

    with iowq.WorkQueue(1) as wq:
        wq.enqueue(work)
    return seconds[0]


def waits() -> list[tuple[str, Callable[[], object]]]:
    """Waits for other threads that nobody else ends."""
    lock, rlock = threading.Lock(), threading.RLock()
    lock.acquire()
    rlock.acquire()
    full = queue.Queue[int](1)
    full.put(1)
    never = threading.Event()
    thread = threading.Thread(target=never.wait, daemon=True)
    thread.start()

    def with_lock() -> None:
        with lock:
            pass

    return [
        ("Queue.get", queue.Queue[int]().get),
        ("Queue.put", lambda: full.put(2)),
        ("Event.wait", threading.Event().wait),
        ("Semaphore.acquire", threading.Semaphore(0).acquire),
        ("Future.result", Future[int]().result),
        ("Lock.acquire", lock.acquire),
        ("Lock.acquire(timeout=60)", lambda: lock.acquire(timeout=60)),
        ("with lock", with_lock),
        ("RLock.acquire", rlock.acquire),
        ("SimpleQueue.get", queue.SimpleQueue[int]().get),
        ("Thread.join", thread.join),
    ]


def main() -> None:
    """Measures, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=1000)
    options = parser.parse_args()
    ours, theirs = socket.socketpair()
    measured: dict[str, tuple[Callable[[], float], int]] = {
        "cancel of recv": (lambda: latency(lambda: _recv(ours)), options.rounds),
        "cancel of sleep": (lambda: latency(lambda: time.sleep(60)), options.rounds),
        **{
            f"cancel of {name}": (functools.partial(latency, wait), options.rounds)
            for name, wait in waits()
        },
        "cancel of a loop": (lambda: latency(_loop), options.rounds),
        "cancel_all of 500 in recv": (lambda: all_of(500), max(3, options.rounds // 50)),
        "cancel_all of 5,000 in recv": (lambda: all_of(5000), 3),
        "another thread's longest stop meanwhile": (lambda: longest_stop(5000), 3),
        "a timeout that doesn't expire": (unexpired_timeout, 20),
    }
    table = Table(title=f"CPython {platform.python_version()}")
    for column in ("measured", "rounds", "median", "99th percentile", "worst"):
        table.add_column(column, justify="left" if column == "measured" else "right")
    with ours, theirs:
        for name, (measure, rounds) in measured.items():
            times = sorted(measure() for _ in track(range(rounds), name, transient=True))
            chosen = statistics.median(times), times[len(times) * 99 // 100], times[-1]
            table.add_row(name, str(rounds), *(f"{value * 1e6:,.1f} us" for value in chosen))
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
