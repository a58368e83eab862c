"""Works that wait for other works of their queue: no limit keeps the awaited ones from running."""

from __future__ import annotations

import concurrent.futures
import random
import threading
import time

import pytest

import iowq
from support import DEADLINE, wait_until


def test_map_inside_of_works_on_all_workers() -> None:
    with iowq.WorkQueue(2) as wq:

        def outer() -> int:
            return sum(wq.map(abs, range(3)))

        assert [f.result(DEADLINE) for f in [wq.submit(outer) for _ in range(10)]] == [3] * 10


def test_wait_and_as_completed_inside_of_works() -> None:
    with iowq.WorkQueue(2) as wq:

        def outer() -> int:
            futures = [wq.submit(abs, number) for number in range(5)]
            assert len(concurrent.futures.wait(futures).done) == 5
            futures = [wq.submit(abs, number) for number in range(5)]
            return sum(f.result() for f in concurrent.futures.as_completed(futures))

        assert [f.result(DEADLINE) for f in [wq.submit(outer) for _ in range(10)]] == [10] * 10


def test_a_long_chain_ends() -> None:
    """Ten thousand of them do, in 10 s; a thread each."""

    def nested(depth: int) -> int:
        return 0 if depth == 0 else 1 + wq.submit(nested, depth - 1).result()

    with iowq.WorkQueue(1) as wq:
        assert wq.submit(nested, 500).result(DEADLINE) == 500
        wait_until(lambda: wq.stats().workers == 1)


def test_other_pools_and_keys() -> None:
    """From bounded to unbounded works and back, at the limit of both, and within keys."""
    with iowq.WorkQueue(1, unbounded=1) as wq:

        def nested(depth: int) -> int:
            if depth == 0:
                return 0
            view = (wq, wq.unbounded, wq.hashed(depth), wq.unbounded.hashed(-depth))[depth % 4]
            return 1 + view.submit(nested, depth - 1).result()

        assert [f.result(DEADLINE) for f in [wq.submit(nested, 40) for _ in range(5)]] == [40] * 5


def test_a_work_of_the_own_key_cannot_be_waited_for() -> None:
    with iowq.WorkQueue(2) as wq:
        lane, chain = wq.hashed("key"), wq.chain()

        def outer(executor: iowq.QueueExecutor) -> object:
            inner = executor.submit(int)
            with pytest.raises(RuntimeError, match=r"this work would wait for itself: .*its key"):
                inner.result()
            return inner

        for executor in (lane, chain):
            inner = executor.submit(outer, executor).result(DEADLINE)
            assert isinstance(inner, iowq.Future)
            assert inner.result(DEADLINE) == 0


def test_a_time_out_and_a_cancel_end_the_wait() -> None:
    gate = threading.Event()
    with iowq.WorkQueue(2) as wq:

        def outer(timeout: float | None) -> object:
            return wq.submit(gate.wait).result(timeout)

        with pytest.raises(concurrent.futures.TimeoutError):
            wq.submit(outer, 0.05).result(DEADLINE)
        future = wq.submit(outer, None)
        wait_until(lambda: wq.stats().running == 3)
        future.cancel()
        with pytest.raises(concurrent.futures.CancelledError):
            future.result(DEADLINE)
        gate.set()
        wq.flush(DEADLINE)
        wait_until(lambda: wq.stats().workers <= 2)


def test_the_limit_holds_for_those_that_compute() -> None:
    """Under load: works that wait don't count, all others do."""
    lock, running, most = threading.Lock(), 0, 0
    chance = random.Random(5)

    def inner() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(chance.random() / 500)
        with lock:
            running -= 1

    with iowq.WorkQueue(3) as wq:

        def outer() -> None:
            for future in [wq.submit(inner) for _ in range(5)]:
                future.result()

        for future in [wq.submit(outer) for _ in range(40)]:
            future.result(DEADLINE)
        wq.flush(DEADLINE)
        wait_until(lambda: wq.stats().workers <= 3)
    assert 1 < most <= 6  # who comes back from a wait runs beside those that took its part
