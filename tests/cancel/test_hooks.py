"""Hooked methods do on a worker what they do elsewhere, whatever they are called with."""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

import iowq
from support import DEADLINE, wait_until, waits_for_a_lock

#: Each ends by itself, also if what is waited for doesn't come.
ARGUMENTS: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    ((False,), {}),
    ((True, 0.01), {}),
    ((True, 0), {}),
    ((True, -0.5), {}),
    ((True, -2), {}),
    ((False, 1), {}),
    ((False, -1), {}),
    ((1, 0.01), {}),
    (("",), {}),
    ((), {"timeout": 0.01}),
    ((), {"blocking": True, "timeout": 0.01}),
    ((), {"block": True, "timeout": 0.01}),
    ((), {"unknown": 1}),
    ((1, 2, 3), {}),
    ((True,), {"blocking": True}),
    *(((True, bad), {}) for bad in ("x", Decimal("0.01"), math.nan, 1e300, 10**400)),
]
#: These wait for ever: tried with what is free.
WAITING: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    ((), {}),
    ((True,), {}),
    ((True, -1), {}),
    ((True, -1.0), {}),
    ((True, threading.TIMEOUT_MAX), {}),
    ((), {"blocking": True}),
    ((), {"block": True, "timeout": None}),
]


def _held(make: Callable[[], Any]) -> Any:
    """It is held by another thread."""
    lock = make()
    thread = threading.Thread(target=lock.acquire)
    thread.start()
    thread.join()
    return lock


def _filled() -> queue.SimpleQueue[int]:
    items: queue.SimpleQueue[int] = queue.SimpleQueue()
    items.put(5)
    return items


def _outcomes(make: Callable[[], Any], method: str, arguments: list[Any]) -> list[Any]:
    outcomes: list[Any] = []
    for args, kwargs in arguments:
        try:
            outcomes.append(getattr(make(), method)(*args, **kwargs))
        except Exception as error:
            outcomes.append((type(error), str(error)))
    return outcomes


@pytest.mark.parametrize(
    ("free", "taken", "method"),
    [
        (threading.Lock, lambda: _held(threading.Lock), "acquire"),
        (threading.RLock, lambda: _held(threading.RLock), "acquire"),
        (_filled, queue.SimpleQueue, "get"),
    ],
)
def test_arguments(free: Callable[[], Any], taken: Callable[[], Any], method: str) -> None:
    def outcomes() -> list[Any]:
        return _outcomes(free, method, ARGUMENTS + WAITING) + _outcomes(taken, method, ARGUMENTS)

    with iowq.WorkQueue(1) as wq:
        assert wq.submit(outcomes).result(DEADLINE) == outcomes()


def test_a_long_limit_is_no_obstacle() -> None:
    lock = threading.Lock()
    lock.acquire()
    with iowq.WorkQueue(1) as wq:
        work = wq.enqueue(lock.acquire, True, threading.TIMEOUT_MAX)
        wait_until(work.running)
        wait_until(lambda: waits_for_a_lock(wq))
        wq.cancel(work)
        wait_until(work.done)
        assert work.cancelled()
        assert lock.locked()


def test_a_lock_that_comes_free_is_taken() -> None:
    """While cancel holds back, as under a shield."""
    lock = threading.Lock()
    lock.acquire()
    taken: list[bool] = []

    def work() -> None:
        with iowq.shield():
            taken.append(lock.acquire(timeout=60))
            lock.release()

    with iowq.WorkQueue(1) as wq:
        running = wq.enqueue(work)
        wait_until(lambda: waits_for_a_lock(wq))
        wq.cancel(running)
        lock.release()
        wq.flush(DEADLINE)
        assert taken == [True]
        assert running.cancelled()
    assert not lock.locked()


def test_bound_methods_that_were_made_before() -> None:
    """`Condition` keeps some."""
    lock = threading.Lock()
    acquire = lock.acquire
    acquire()
    with iowq.WorkQueue(1) as wq:
        work = wq.enqueue(acquire)
        wait_until(work.running)
        wq.cancel(work)
        wait_until(work.done)
        assert work.cancelled()
