"""Works of many kinds, cancelled at random instants; nothing that they share may break.

By default it runs for some seconds. The long form:
``IOWQ_CANCELS=200000 .venv/bin/pytest tests/cancel/test_cancel_stress.py --timeout 0 -s``
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import hashlib
import importlib
import json
import logging
import os
import queue
import random
import select
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

import iowq
from support import FREE_THREADED, wait_until

CANCELS = int(os.environ.get("IOWQ_CANCELS", "0"))
SECONDS = 25.0
CONCURRENCY = 12
#: What a work may end with when it is cancelled: cancel's own, or what its code
#: makes of it.
EXPECTED = (iowq.Cancelled, OSError, sqlite3.Error, subprocess.SubprocessError, EOFError)

KINDS: dict[str, Callable[[Shared], None]] = {}


def kind(function: Callable[[Shared], None]) -> Callable[[Shared], None]:
    KINDS[function.__name__] = function
    return function


#: Of one queue's items, and of one thread's: without a GIL two can't count together.
Tally = tuple[str, int]


def tally_of(name: str) -> Tally:
    return name, threading.get_ident()


class Shared:
    """What works and bystanders use together."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lock = threading.Lock()
        self.rlock = threading.RLock()
        self.condition = threading.Condition()
        self.semaphore = threading.Semaphore(3)
        self.event = threading.Event()
        self.items: queue.Queue[int] = queue.Queue(50)
        # a Counter would call a function of its own for a new thread's: a safepoint, at which
        # a work may be ended before it has counted
        self.put: defaultdict[Tally, int] = defaultdict(int)
        self.got: defaultdict[Tally, int] = defaultdict(int)
        self.balance = 0
        self.future: Future[None] = Future()
        self.simple: queue.SimpleQueue[int] = queue.SimpleQueue()
        self.held, self.rheld = threading.Lock(), threading.RLock()
        self.held.acquire()
        self.rheld.acquire()
        self.thread = threading.Thread(target=self.held.__enter__, daemon=True)
        self.thread.start()
        self.logger = logging.Logger("stress")
        self.logger.addHandler(logging.FileHandler(folder / "log"))
        self.ours, self.theirs = socket.socketpair()
        self.full, self.reader = socket.socketpair()
        self.pipe = os.pipe()
        self.database = folder / "database"
        os.mkfifo(folder / "fifo")
        sys.path.append(str(folder))
        with contextlib.closing(sqlite3.connect(self.database)) as database:
            database.execute("create table t (n)")
            database.execute("insert into t values (0)")
            database.commit()

    def close(self) -> None:
        self.held.release()
        self.rheld.release()
        self.thread.join(30)
        assert not self.thread.is_alive()
        sys.path.remove(str(self.folder))
        for handler in self.logger.handlers:
            handler.close()
        for sock in (self.ours, self.theirs, self.full, self.reader):
            sock.close()
        for fd in self.pipe:
            os.close(fd)

    @contextlib.contextmanager
    def balanced(self) -> Iterator[None]:
        with self.rlock:
            self.balance += 1
        try:
            yield
        finally:
            with self.rlock:
                self.balance -= 1


# ---- blocked in a system call


@kind
def recv(shared: Shared) -> None:
    shared.ours.recv(1)


@kind
def sendall(shared: Shared) -> None:
    shared.full.sendall(b"x" * 10_000_000)


@kind
def accept(_shared: Shared) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.accept()


@kind
def read_pipe(shared: Shared) -> None:
    os.read(shared.pipe[0], 1)


@kind
def sleep(shared: Shared) -> None:
    with shared.balanced():
        time.sleep(60)


@kind
def select_and_poll(shared: Shared) -> None:
    poll = select.poll()
    poll.register(shared.ours, select.POLLIN)
    with select.epoll() as epoll:
        epoll.register(shared.ours, select.EPOLLIN)
        epoll.poll(0.001)
        poll.poll(1)
        select.select([shared.ours], [], [])


@kind
def flock(shared: Shared) -> None:
    with (shared.folder / "lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        time.sleep(60)


@kind
def open_fifo(shared: Shared) -> None:
    (shared.folder / "fifo").open().close()


@kind
def swallows_errors(shared: Shared) -> None:
    with contextlib.suppress(OSError):
        shared.ours.recv(1)


@kind
def blocks_in_clean_up(shared: Shared) -> None:
    try:
        shared.ours.recv(1)
    finally:
        time.sleep(0.002)


# ---- waiting for other threads


@kind
def queue_get(shared: Shared) -> None:
    tally = tally_of("items")
    while True:
        shared.items.get()
        shared.got[tally] += 1


@kind
def queue_put(shared: Shared) -> None:
    tally = tally_of("items")
    while True:
        shared.items.put(1)
        shared.put[tally] += 1


@kind
def queue_get_with_timeout(shared: Shared) -> None:
    tally = tally_of("items")
    while True:
        with contextlib.suppress(queue.Empty):
            shared.items.get(timeout=0.01)
            shared.got[tally] += 1


@kind
def event_wait(shared: Shared) -> None:
    shared.event.wait()


@kind
def condition_wait(shared: Shared) -> None:
    with shared.condition:
        shared.condition.wait_for(lambda: False)


@kind
def future_result(shared: Shared) -> None:
    shared.future.result()


@kind
def simple_queue_get(shared: Shared) -> None:
    tally = tally_of("simple")
    while True:
        shared.simple.get()
        shared.got[tally] += 1


@kind
def held_lock(shared: Shared) -> None:
    with shared.held:
        raise AssertionError("it is held")


@kind
def held_lock_with_timeout(shared: Shared) -> None:
    while True:
        assert not shared.held.acquire(timeout=0.01)


@kind
def held_rlock(shared: Shared) -> None:
    shared.rheld.acquire()


@kind
def thread_join(shared: Shared) -> None:
    shared.thread.join()


@kind
def semaphores(shared: Shared) -> None:
    while True:
        with shared.semaphore:
            len("held")


@kind
def locks(shared: Shared) -> None:
    while True:
        with shared.lock:
            len("held")


@kind
def locks_by_hand(shared: Shared) -> None:
    while True:
        shared.lock.acquire()
        try:
            len("held")
        finally:
            shared.lock.release()


@kind
def conditions_and_rlocks(shared: Shared) -> None:
    while True:
        with shared.rlock, shared.condition:
            shared.condition.notify()


# ---- computing


@kind
def loop(_shared: Shared) -> None:
    n = 0
    while True:
        n += 1


@kind
def loop_in_try(shared: Shared) -> None:
    try:
        while True:
            pass
    finally:
        with shared.rlock:
            len("cleaned up")


@kind
def recursion(_shared: Shared) -> None:
    def down(depth: int) -> int:
        return depth and down(depth - 1) + 1

    while True:
        down(100)


@kind
def generators(shared: Shared) -> None:
    def numbers() -> Iterator[int]:
        with shared.balanced():
            yield from range(5)

    while True:
        sum(numbers())


@kind
def context_managers(shared: Shared) -> None:
    while True:
        with shared.balanced(), contextlib.ExitStack() as stack:
            stack.enter_context(shared.balanced())
            len("inside")


@kind
def compute_in_c(_shared: Shared) -> None:
    data = bytes(100_000)
    while True:
        hashlib.sha256(zlib.compress(data, 1)).hexdigest()


@kind
def json_round_trips(_shared: Shared) -> None:
    while True:
        json.loads(json.dumps({"a": [1, 2, {"b": None}], "c": "text"}))


@kind
def allocations(_shared: Shared) -> None:
    while True:
        cycle: list[Any] = [{} for _ in range(100)]
        cycle.append(cycle)


@kind
def logs(shared: Shared) -> None:
    while True:
        shared.logger.warning("a line")


@kind
def imports(shared: Shared) -> None:
    name = f"module_of_thread_{threading.get_ident()}"
    (shared.folder / f"{name}.py").write_text("import this_module_does_not_exist")
    # without a GIL two threads may drop the same entry, and a signal may have the folder's listing
    # fail: see docs/how/workers.md
    lost = (KeyError, InterruptedError) if FREE_THREADED else ()
    while True:
        with contextlib.suppress(*lost):
            importlib.invalidate_caches()
        with contextlib.suppress(ImportError, *lost):
            importlib.import_module(name)


@kind
def transactions(shared: Shared) -> None:
    with contextlib.closing(sqlite3.connect(shared.database, timeout=0.05)) as database:
        while True:
            with contextlib.suppress(sqlite3.OperationalError), database:
                database.execute("update t set n = n + 1")


@kind
def files(shared: Shared) -> None:
    while True:
        path = shared.folder / f"file{threading.get_ident()}"
        path.write_text("text")
        path.read_text()


@kind
def shielded(shared: Shared) -> None:
    while True:
        with iowq.shield():
            _ = shared.balance
            time.sleep(0.0005)


@kind
def timeouts(shared: Shared) -> None:
    while True:
        with contextlib.suppress(TimeoutError), iowq.timeout(0.002):
            shared.ours.recv(1)


@kind
def ends_at_once(_shared: Shared) -> None:
    """Cancel meets it as it ends, or after."""


# ---- bystanders: threads that are nobody's to cancel


class Bystanders:
    """They use the same things as the works, and no exception may reach them."""

    def __init__(self, shared: Shared) -> None:
        self.shared = shared
        self.stop = False
        self.errors: list[BaseException] = []
        steps = [self.use_queue, self.use_locks, self.log_and_import, self.make_threads]
        self.threads = [threading.Thread(target=self.run, args=(step,)) for step in steps]
        for thread in self.threads:
            thread.start()

    def run(self, step: Callable[[], None]) -> None:
        try:
            while not self.stop:
                step()
                time.sleep(0.001)
        except BaseException as error:
            self.errors.append(error)

    def use_queue(self) -> None:
        tally = tally_of("items")
        with contextlib.suppress(queue.Full):
            self.shared.items.put(1, timeout=0.01)
            self.shared.put[tally] += 1
        with contextlib.suppress(queue.Empty):
            self.shared.items.get(timeout=0.01)
            self.shared.got[tally] += 1
        self.shared.simple.put(1)
        self.shared.put[tally_of("simple")] += 1

    def use_locks(self) -> None:
        shared = self.shared
        with shared.lock, shared.semaphore, shared.rlock, shared.condition:
            shared.condition.notify()

    def log_and_import(self) -> None:
        self.shared.logger.warning("a bystander's line")
        sys.modules.pop("colorsys", None)
        importlib.import_module("colorsys")

    def make_threads(self) -> None:
        thread = threading.Thread(target=time.sleep, args=(0.0001,))
        thread.start()
        thread.join()

    def end(self) -> None:
        self.stop = True
        for thread in self.threads:
            thread.join(30)
            assert not thread.is_alive()
        assert not self.errors


class Stress:
    """Keeps works running, and cancels one after the other."""

    def __init__(self, shared: Shared, interrupt: Any) -> None:
        self.shared = shared
        self.errors: list[tuple[str, BaseException]] = []
        self.kinds: dict[iowq.Work, str] = {}
        self.cancelled: Counter[str] = Counter()
        self.finished: Counter[str] = Counter()
        self.wq = iowq.WorkQueue(CONCURRENCY, on_error=self.on_error, interrupt=interrupt)

    def on_error(self, work: iowq.Work, error: BaseException) -> None:
        self.errors.append((self.kinds.get(work, "?"), error))

    def one(self, name: str, delay: float) -> None:
        work = self.wq.enqueue(KINDS[name], self.shared)
        self.kinds[work] = name
        time.sleep(delay)
        wait_until(lambda: not work.pending())
        self.wq.cancel(work)
        try:
            wait_until(work.done)
        except AssertionError:
            iowq.dump()
            raise AssertionError(f"{name} did not end") from None
        (self.cancelled if work.cancelled() else self.finished)[name] += 1
        del self.kinds[work]

    def check(self) -> None:
        assert not self.errors, self.errors[:3]
        never_ends = set(KINDS) - {"ends_at_once", "swallows_errors"}
        assert not never_ends & set(self.finished), self.finished


def _run(stress: Stress, cancels: int, seconds: float) -> int:
    """Several threads cancel; returns how many works they cancelled."""
    ends = time.monotonic() + seconds
    counts = Counter[int]()
    failures: list[BaseException] = []

    def cancel_works(seed: int) -> None:
        chance = random.Random(seed)
        try:
            while counts[seed] < cancels // 4 if cancels else time.monotonic() < ends:
                name = chance.choice(names)
                stress.one(name, chance.choice((0, 1e-4, chance.uniform(0, 3e-3))))
                counts[seed] += 1
        except BaseException as error:
            failures.append(error)

    # SQLite's own waits take a second to end: they come less often
    names = [name for name in KINDS for _ in range(1 if name == "transactions" else 20)]
    threads = [threading.Thread(target=cancel_works, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures
    return counts.total() if hasattr(counts, "total") else sum(counts.values())


def _check_shared(shared: Shared) -> None:
    """Locks are free, permits complete, items accounted for, the data intact."""
    for lock in (shared.lock, shared.rlock, shared.condition):
        assert lock.acquire(timeout=5)
        lock.release()
    for _ in range(3):
        assert shared.semaphore.acquire(timeout=5), "a permit was lost"
    assert not shared.semaphore.acquire(timeout=0.01), "a permit too many"
    assert shared.balance == 0
    assert shared.thread.is_alive()
    for name, kept in (("simple", shared.simple), ("items", shared.items)):
        put, got = (
            sum(count for tally, count in counts.items() if tally[0] == name)
            for counts in (shared.put, shared.got)
        )
        assert put - got == kept.qsize()
    assert not shared.condition._waiters  # type: ignore[attr-defined]
    assert not shared.event._cond._waiters  # type: ignore[attr-defined]
    with contextlib.closing(sqlite3.connect(shared.database, timeout=5)) as database:
        assert database.execute("pragma integrity_check").fetchone() == ("ok",)
        database.execute("update t set n = 0")
        database.commit()


def _descriptors() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


@pytest.mark.filterwarnings("ignore")
def test_cancel_at_random_instants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unraisable: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)
    monkeypatch.setattr(threading, "excepthook", unraisable.append)
    before = _descriptors()
    shared = Shared(tmp_path)
    bystanders = Bystanders(shared)
    stress = Stress(shared, "anywhere")
    try:
        cancels = _run(stress, CANCELS, SECONDS)
    finally:
        stress.wq.cancel_all()
        bystanders.end()
    stress.wq.close()
    print(f"{cancels} cancels, {sum(stress.finished.values())} of them met an end")
    stress.check()
    _check_shared(shared)
    assert not unraisable, unraisable[:3]
    shared.close()
    wait_until(lambda: _descriptors() <= before)
