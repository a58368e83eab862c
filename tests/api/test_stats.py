"""What a queue counts."""

from __future__ import annotations

import os
import threading
import time

import pytest

import iowq
from support import DEADLINE, FREE_THREADED, Blocker, wait_until


def _fail() -> None:
    raise LookupError("no such row")


def test_every_work_is_counted_by_how_it_ended(blocker: Blocker) -> None:
    with iowq.WorkQueue(3, on_error=lambda *_: None) as wq:
        for _ in range(2):
            wq.submit(_fail)
            wq.enqueue(_fail)
        wq.flush()
        running = wq.submit(time.sleep, 60)
        wait_until(running.running)
        wq.cancel(running)
        wq.flush()
        futures = [wq.submit(blocker) for _ in range(10)]
        blocker.wait_entered(3)
        for future in futures[5:]:
            assert future.cancel()
        # nobody is left to notice the last, or, where works run in parallel, the last ones
        wait_until(lambda: wq.stats().blocked >= (1 if FREE_THREADED else 2))
        stats = wq.stats()
        assert stats.enqueued == 15
        assert stats.started == 8
        assert stats.finished == 4
        assert stats.failed == 4
        assert stats.cancelled == 6
        assert stats.running == 3
        assert stats.pending == 2
        assert stats.longest >= 7
        blocker.release()
        wq.flush()
        stats = wq.stats()
        assert (stats.finished, stats.pending, stats.running) == (9, 0, 0)
        assert stats.created == stats.workers + stats.retired


def test_the_counts_add_up_at_every_instant() -> None:
    with iowq.WorkQueue(4) as wq:
        futures = []
        for number in range(3000):
            futures.append(wq.submit(time.sleep, 0.0001 * (number % 3)))
            if number % 7 == 0:
                futures[number // 2].cancel()
            s = wq.stats()
            assert s.enqueued == s.pending + s.running + s.finished + s.cancelled == number + 1
            assert s.failed <= s.finished
            assert s.longest >= s.pending
        wq.flush()
        assert wq.stats().cancelled == sum(future.cancelled() for future in futures)


def test_waits(blocker: Blocker) -> None:
    with iowq.WorkQueue(1) as wq:
        assert wq.stats().wait(0.99) == 0
        for _ in range(3200):
            wq.enqueue(int)
        wq.flush()
        assert sum(wq.stats().waits) == 100
        wq.submit(blocker)
        for _ in range(3199):
            wq.enqueue(int)
        time.sleep(0.2)
        blocker.release()
        wq.flush()
        stats = wq.stats()
        assert sum(stats.waits) == 200
        assert 0.2 <= stats.wait(0.99) <= DEADLINE
        assert stats.wait(0.2) <= stats.wait(0.8) <= stats.wait(1)
        with pytest.raises(ValueError, match="share must be from 0 to 1, not 99"):
            stats.wait(99)
        with pytest.raises(TypeError, match="share must be a number from 0 to 1, not str: '1'"):
            stats.wait("1")  # type: ignore[arg-type]


def test_announced_blocking_gets_another_worker() -> None:
    """Also if the interpreter's lock is never let go: nobody could notice."""
    reader, writer = os.pipe()

    def wait() -> bytes:
        with iowq.blocking():
            return os.read(reader, 1)

    with iowq.WorkQueue(2) as wq:
        first = wq.submit(wait)
        wait_until(lambda: wq.stats().blocked == 1)
        assert wq.submit(int, "3").result(DEADLINE) == 3
        os.write(writer, b"x")
        assert first.result(DEADLINE) == b"x"
        assert wq.stats().blocked == 0
    with iowq.blocking():
        pass  # not a work
    os.close(reader)
    os.close(writer)


def test_nodes_and_total_are_of_one_instant() -> None:
    with iowq.WorkQueue(2) as wq:
        stop = threading.Event()

        def enqueue() -> None:
            while not stop.is_set():
                wq.enqueue(int)

        thread = threading.Thread(target=enqueue)
        thread.start()
        try:
            for _ in range(300):
                stats = wq.stats()
                assert sum(node.enqueued for node in stats.nodes.values()) == stats.enqueued
                time.sleep(0)
        finally:
            stop.set()
            thread.join()


def test_blocking_counts_to_the_end_of_the_outer_one() -> None:
    gates = [threading.Event() for _ in range(3)]
    inside = threading.Semaphore(0)

    def spin(gate: threading.Event) -> None:
        inside.release()
        while not gate.is_set():
            pass

    def work() -> None:
        with iowq.blocking():
            with iowq.blocking():
                spin(gates[0])
            spin(gates[1])
        spin(gates[2])

    with iowq.WorkQueue(1) as wq:
        wq.enqueue(work)
        for gate, blocked in zip(gates, (1, 1, 0), strict=True):
            assert inside.acquire(timeout=DEADLINE)
            assert wq.stats().blocked == blocked
            gate.set()
