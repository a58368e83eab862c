"""Bad arguments, exceptions in work, threads that can't be created."""

from __future__ import annotations

import gc
import itertools
import math
import random
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import SimpleNamespace
from typing import Any

import pytest

import iowq
from support import DEADLINE, Blocker, run_python, wait_until


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (0, ValueError),
        (-1, ValueError),
        (10**9, ValueError),
        (True, TypeError),
        ("4", TypeError),
        (2.0, TypeError),
    ],
)
def test_concurrency(value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"concurrency .*" + str(value)):
        iowq.WorkQueue(value)


@pytest.mark.parametrize(
    ("option", "value", "error"),
    [
        ("name", "", ValueError),
        ("name", "a\0b", ValueError),
        ("name", "\ud800", ValueError),
        ("name", b"bytes", TypeError),
        ("thread_name_prefix", 5, TypeError),
        ("initargs", 3, TypeError),
        ("idle_timeout", 0, ValueError),
        ("idle_timeout", -1, ValueError),
        ("idle_timeout", math.inf, ValueError),
        ("idle_timeout", math.nan, ValueError),
        ("idle_timeout", "5", TypeError),
        ("idle_timeout", True, TypeError),
        ("initializer", 3, TypeError),
        ("on_error", "print", TypeError),
        ("cancel_signal", 0, ValueError),
        ("cancel_signal", 1000, ValueError),
        ("cancel_signal", "62", TypeError),
        ("cancel_signal", int(signal.SIGKILL), ValueError),
        ("cancel_signal", int(signal.SIGSTOP), ValueError),
    ],
)
def test_options(option: str, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=option):
        iowq.WorkQueue(1, **{option: value})


@pytest.mark.parametrize("value", ["1", math.nan, object()])
def test_flush_timeouts(wq: iowq.WorkQueue, value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"timeout must be a number of seconds"):
        wq.flush(value)


@pytest.mark.parametrize("value", [None, 3, "print"])
def test_what_is_not_callable(wq: iowq.WorkQueue, value: Any) -> None:
    with pytest.raises(TypeError, match=r"fn must be callable, not .*" + str(value)):
        wq.enqueue(value)
    with pytest.raises(TypeError, match=r"fn must be callable"):
        wq.enqueue_hashed("key", value)
    assert len(wq._keys) == 0


def test_cancel_of_what_is_no_work(wq: iowq.WorkQueue) -> None:
    with pytest.raises(TypeError, match=r"work must be a Work, not int: 3"):
        wq.cancel(3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "error", [ValueError("v"), KeyboardInterrupt(), SystemExit(3), GeneratorExit(), MemoryError()]
)
def test_exceptions_of_any_class(
    monkeypatch: pytest.MonkeyPatch, wq: iowq.WorkQueue, error: BaseException
) -> None:
    reports: list[Any] = []
    monkeypatch.setattr(
        sys,
        "unraisablehook",
        lambda r: reports.append(SimpleNamespace(exc_value=r.exc_value, object=r.object)),
    )

    def fail() -> None:
        raise error

    work = wq.enqueue(fail)
    after = wq.enqueue(int)
    wq.flush()
    assert [report.exc_value for report in reports] == [error]
    assert reports[0].object is work
    assert work.done()
    assert after.done()
    reports.clear()


def test_on_error_gets_what_work_raises() -> None:
    seen: list[tuple[iowq.Work, BaseException]] = []
    with iowq.WorkQueue(2, on_error=lambda work, error: seen.append((work, error))) as wq:
        bad = wq.enqueue(int, "no number")
        wq.enqueue(int)
        wq.flush()
    assert len(seen) == 1
    assert seen[0][0] is bad
    assert isinstance(seen[0][1], ValueError)


def test_on_error_that_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    reports: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda r: reports.append(r.exc_type))

    def fail_again(_work: iowq.Work, _error: BaseException) -> None:
        raise LookupError

    with iowq.WorkQueue(1, on_error=fail_again) as wq:
        wq.enqueue(int, "no number")
        after = wq.enqueue(int)
    assert reports == [LookupError, ValueError]
    assert after.done()


def test_raising_work_of_a_key_lets_the_key_go() -> None:
    with iowq.WorkQueue(2, on_error=lambda *_: None) as wq:
        wq.enqueue_hashed("k", int, "no number")
        after = wq.enqueue_hashed("k", int)
        wq.flush()
        assert after.done()
        assert len(wq._keys) == 0


def test_threads_are_named() -> None:
    names: list[str] = []
    blocker = Blocker()

    def record() -> None:
        names.append(threading.current_thread().name)
        with open(f"/proc/self/task/{threading.get_native_id()}/comm") as comm:  # noqa: PTH123
            names.append(comm.read().strip())
        blocker()

    with iowq.WorkQueue(2, name="disk") as wq:
        wq.enqueue(record)
        wq.enqueue(record)
        blocker.wait_entered(2)
        blocker.release()
    assert sorted(names) == ["disk-0/0", "disk-0/0", "disk-0/1", "disk-0/1"]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("disk")]


def test_a_long_name_keeps_what_tells_threads_apart() -> None:
    names: list[str] = []

    def record() -> None:
        names.append(threading.current_thread().name)
        with open(f"/proc/self/task/{threading.get_native_id()}/comm") as comm:  # noqa: PTH123
            names.append(comm.read().strip())

    with iowq.WorkQueue(1, name="database-\N{GREEK SMALL LETTER ALPHA}-writers") as wq:
        wq.enqueue(record)
    assert names[0] == "database-α-writers-0/0"
    assert names[1].endswith("-writers-0/0")


def test_initializer_runs_once_in_each_worker() -> None:
    local = threading.local()
    values: list[int] = []
    initialized: list[int] = []
    blocker = Blocker()

    def initialize(value: int) -> None:
        local.value = value
        initialized.append(threading.get_ident())

    def use() -> None:
        values.append(local.value)
        blocker()

    with iowq.WorkQueue(3, initializer=initialize, initargs=(5,)) as wq:
        for _ in range(3):
            wq.enqueue(use)
        blocker.wait_entered(3)
        blocker.release()
        for _ in range(100):
            wq.enqueue(int)
    assert values == [5, 5, 5]
    assert len(initialized) == len(set(initialized)) == 3


def test_initializer_that_waits_holds_up_no_other_work() -> None:
    """A worker's first work waits for it, and nobody else."""
    initialized = itertools.count()
    released = threading.Event()

    def initialize() -> None:
        if next(initialized) < 2:
            released.wait(DEADLINE)

    with iowq.WorkQueue(3, initializer=initialize) as wq:
        first, second = wq.submit(int), wq.submit(int)
        wq.submit(released.set).result(DEADLINE)
        assert first.result(DEADLINE) == second.result(DEADLINE) == 0


def test_cancel_waits_for_the_initializer_and_keeps_the_work_from_running() -> None:
    begun, released = threading.Event(), threading.Event()
    interrupted: list[bool] = []
    ran: list[str] = []

    def initialize() -> None:
        begun.set()
        interrupted.append(not released.wait(DEADLINE))

    with iowq.WorkQueue(1, initializer=initialize) as wq:
        future = wq.submit(ran.append, "cancelled")
        assert begun.wait(DEADLINE)
        assert not future.cancel()  # not yet
        wq.enqueue(ran.append, "next")
        released.set()
    assert future.cancelled()
    assert (ran, interrupted) == (["next"], [False])


def test_initializer_that_fails_breaks_the_queue_though_it_cannot_be_logged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_args: object, **_kwargs: object) -> None:
        raise LookupError

    unraisable: list[Any] = []
    ran: list[int] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda r: unraisable.append(r.exc_type))
    monkeypatch.setattr("iowq._work.future.LOGGER.critical", fail)
    wq = iowq.WorkQueue(1, initializer=fail)
    with pytest.raises(iowq.BrokenWorkQueue):
        wq.submit(ran.append, 1).result(DEADLINE)
    with pytest.raises(iowq.BrokenWorkQueue):
        wq.submit(ran.append, 2)
    wq.close()
    assert (ran, unraisable) == ([], [LookupError])


def test_initializer_is_called_though_the_queue_is_garbage() -> None:
    """A finalizer submits the first work, when nothing finds the queue any more."""
    initialized: list[bool] = []
    futures: list[Any] = []

    class Last:
        def __init__(self) -> None:
            self.wq = iowq.WorkQueue(1, initializer=initialized.append, initargs=(True,))
            self.cycle = self

        def __del__(self) -> None:
            futures.append(self.wq.submit(initialized.copy))

    Last()
    gc.collect()
    assert futures[0].result(DEADLINE) == [True]


def test_initializer_that_fails_breaks_the_queue(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise LookupError("no database")

    wq = iowq.WorkQueue(2, initializer=fail)
    work = wq.enqueue(int)
    wait_until(lambda: wq._broken)
    wait_until(work.cancelled)
    assert wq.stats().finished == 0
    with pytest.raises(iowq.BrokenWorkQueue, match=r"initializer has failed"):
        wq.enqueue(int)
    with pytest.raises(iowq.BrokenWorkQueue):
        wq.enqueue_hashed("key", int)
    assert "broken" in repr(wq)
    wq.close()
    assert "LookupError: no database" in caplog.text  # as ThreadPoolExecutor reports it


def test_threads_that_cannot_be_created() -> None:
    """Root has no RLIMIT_NPROC, so the limit is on memory for stacks."""
    result = run_python("""
        import iowq, resource, threading

        free = iowq.WorkQueue(4)
        never = iowq.WorkQueue(4)
        blocked = threading.Event()
        free.enqueue(blocked.wait)
        while free.stats().running == 0:
            pass
        threading.stack_size(0)
        limits = resource.getrlimit(resource.RLIMIT_AS)
        with open("/proc/self/statm") as statm:
            used = int(statm.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 4 * 2**20, limits[1]))
        works = [free.enqueue(int) for _ in range(10)]   # one worker alive: no error
        for kind in ("enqueue", "hashed"):
            try:
                if kind == "enqueue":
                    never.enqueue(int)
                else:
                    never.enqueue_hashed("key", int)
            except OSError as error:
                print(error)
        print(never.stats().pending, len(never._keys))
        blocked.set()
        free.flush(timeout=20)
        print(all(work.done() and not work.cancelled() for work in works))
        resource.setrlimit(resource.RLIMIT_AS, limits)
        work = never.enqueue(int)
        never.flush(timeout=20)
        print(work.done())
    """)
    lines = result.stdout.splitlines()
    assert len(lines) == 5, result
    assert all("cannot start a worker" in line for line in lines[:2]), result
    assert lines[2:] == ["0 0", "True", "True"], result


def test_a_name_cut_within_a_character_still_initializes() -> None:
    initialized: list[str] = []
    with iowq.WorkQueue(
        1, name="\u00e9" * 30, initializer=initialized.append, initargs=("yes",)
    ) as wq:
        wq.enqueue(int)
    assert initialized == ["yes"]


def test_a_queue_is_initialised_once(wq: iowq.WorkQueue) -> None:
    with pytest.raises(RuntimeError, match="initialised once"):
        wq.__init__()  # type: ignore[misc]


def test_an_infinite_timeout(wq: iowq.WorkQueue) -> None:
    wq.enqueue(int)
    wq.flush(math.inf)


class AlarmError(Exception):
    """What the handlers of these tests raise."""


@contextmanager
def _alarms() -> Iterator[Callable[[Callable[[], object], float], None]]:
    """Yields a function that calls another, with a handler that raises after a time.

    The handler may be called late, since the signal can be delivered to another
    thread; so that is waited for.
    """
    fired: list[int] = []

    def handler(*_args: object) -> None:
        fired.append(1)
        raise AlarmError

    def interrupt(call: Callable[[], object], seconds: float) -> None:
        fired.clear()
        with suppress(AlarmError):
            signal.setitimer(signal.ITIMER_REAL, seconds)
            call()
            wait_until(lambda: fired)

    before = signal.signal(signal.SIGALRM, handler)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGALRM, before)


def test_handlers_that_raise_during_flush(wq: iowq.WorkQueue) -> None:
    """A flush that is abandoned at any instruction leaves nothing in the queue."""
    with _alarms() as interrupt:
        for _ in range(1000):
            wq.enqueue(int)
            interrupt(wq.flush, random.uniform(1e-6, 1e-4))
    wq.flush(timeout=10)
    assert wq.enqueue(int)


def test_handlers_that_raise_while_works_are_cancelled() -> None:
    """Each work is cancelled all the same, and the exception comes out of cancel_all."""
    blocker = Blocker()
    raised: list[bool] = []

    def cancel_all() -> None:
        try:
            wq.cancel_all()
        except AlarmError:
            raised.append(True)
            raise

    with iowq.WorkQueue(1) as wq:
        wq.uncancellable.enqueue(blocker)
        blocker.wait_entered()
        with _alarms() as interrupt:
            for _ in range(100):
                works = [wq.enqueue_hashed(n % 5, int) for n in range(500)]
                interrupt(cancel_all, random.uniform(5e-5, 5e-4))
                wq.cancel_all()
                assert all(work.cancelled() for work in works)
                assert len(wq._keys) == 0
        blocker.release()
    assert raised
