"""Empty works: what one costs."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor

import iowq


def empty() -> None:
    """The work of most measurements."""


def _per_work(count: int, begun: float) -> float:
    return (time.perf_counter() - begun) / count * 1e9


def enqueue_and_flush(count: int, batch: int) -> float:
    """Enqueues count works, batch at a time."""
    with iowq.WorkQueue(4) as wq:
        wq.submit(empty).result()
        begun = time.perf_counter()
        for _ in range(count // batch):
            for _ in range(batch):
                wq.enqueue(empty)
            wq.flush()
        return _per_work(count, begun)


def enqueue_hashed(count: int, keys: int) -> float:
    """Enqueues works in the order of their keys."""
    names = [f"key {number}" for number in range(keys)]
    with iowq.WorkQueue(4) as wq:
        begun = time.perf_counter()
        for number in range(count):
            wq.enqueue_hashed(names[number % keys], empty)
        wq.flush()
        return _per_work(count, begun)


def submit_locked(count: int, keys: int) -> float:
    """The same in a pool that knows no keys: a lock for each, and no order."""
    locks = [threading.Lock() for _ in range(keys)]

    def locked(number: int) -> None:
        with locks[number]:
            empty()

    with ThreadPoolExecutor(4) as pool:
        begun = time.perf_counter()
        for future in [pool.submit(locked, number % keys) for number in range(count)]:
            future.result()
        return _per_work(count, begun)


#: Makes an executor with four workers.
MakeExecutor = Callable[[int], Executor]


def submit_and_result(make: MakeExecutor, count: int, batch: int) -> float:
    with make(4) as executor:
        executor.submit(empty).result()
        begun = time.perf_counter()
        for _ in range(count // batch):
            for future in [executor.submit(empty) for _ in range(batch)]:
                future.result()
        return _per_work(count, begun)


def submit_from_four(make: MakeExecutor, count: int) -> float:
    """The same from four threads at once."""
    with make(4) as executor:

        def produce() -> None:
            for future in [executor.submit(empty) for _ in range(count // 4)]:
                future.result()

        threads = [threading.Thread(target=produce) for _ in range(4)]
        begun = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return _per_work(count, begun)


def map_all(make: MakeExecutor, count: int, batch: int) -> float:
    with make(4) as executor:
        executor.submit(empty).result()
        begun = time.perf_counter()
        for _ in range(count // batch):
            for _ in executor.map(abs, range(batch)):
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


def in_queues(count: int, queues: int) -> float:
    """Enqueues works to so many queues, the same number to each, one after the other."""
    wqs = [iowq.WorkQueue(1) for _ in range(queues)]
    for wq in wqs:
        wq.enqueue(empty)
        wq.flush()
    begun = time.perf_counter()
    for wq in wqs:
        for _ in range(count // queues):
            wq.enqueue(empty)
    for wq in wqs:
        wq.flush()
    took = _per_work(count, begun)
    for wq in wqs:
        wq.close()
    return took


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
