"""Whose code is ended where: the user's at its safepoints, others' where it is called or blocks."""

from __future__ import annotations

import io
import os
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tqdm import tqdm

import iowq
from iowq._cancel import policy
from support import DEADLINE, Install, run_python, wait_until


def _cancel(wq: iowq.WorkQueue, fn: Callable[..., object], *args: object) -> float:
    """Runs it, cancels it, and returns how long that took."""
    work = wq.enqueue(fn, *args)
    wait_until(work.running)
    time.sleep(0.01)  # anywhere in it
    begun = time.monotonic()
    assert wq.cancel(work) is iowq.Cancel.RUNNING
    wait_until(work.done)
    assert work.cancelled()
    return time.monotonic() - begun


# ---- in code of others


HOLDS = """
    import threading
    lock = threading.Lock()
    taken = given = 0

    def helper():
        for _ in range(3):
            pass

    def update():
        global taken, given
        lock.acquire()
        taken += 1
        helper()
        given += 1
        lock.release()

    def for_ever():
        while True:
            update()
"""


@pytest.mark.usefixtures("no_second_best")
def test_what_others_take_by_hand_they_give_back(install: Install) -> None:
    """No function of theirs, and no loop, is ended between the two."""
    others = install(HOLDS)

    def work() -> None:
        while True:
            others.update()

    with iowq.WorkQueue(1) as wq:
        for _ in range(100):
            _cancel(wq, work)
            assert not others.lock.locked()
            assert others.taken == others.given


def test_others_loops_are_ended_after_patience(install: Install) -> None:
    others = install(HOLDS)
    with iowq.WorkQueue(1) as wq:
        assert _cancel(wq, others.for_ever) > 0.5
        assert not others.lock.locked()
        assert others.taken == others.given


@pytest.mark.usefixtures("no_second_best")
def test_packages_can_be_named_as_the_users(install: Install) -> None:
    others = install(HOLDS)
    with iowq.WorkQueue(1, interruptible=[others.__name__]) as wq:
        for _ in range(20):
            _cancel(wq, others.for_ever)
            assert not others.lock.locked()


@pytest.mark.parametrize("names", ["mypackage", 3, [b"mypackage"]])
def test_names_of_packages_are_checked(names: Any) -> None:
    with pytest.raises(TypeError, match="interruptible"):
        iowq.WorkQueue(1, interruptible=names)


def test_users_functions_called_by_others(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A callback is the user's code; what its caller has in hands isn't lost."""
    others = install("""
        import threading
        lock = threading.Lock()

        def call_held(fn):
            lock.acquire()
            fn()
            lock.release()

        def call_safely(fn):
            lock.acquire()
            try:
                fn()
            finally:
                lock.release()
    """)

    def loop() -> None:
        while not leave:
            pass

    leave: list[bool] = []
    with iowq.WorkQueue(1) as wq:
        with monkeypatch.context() as patience:
            patience.setattr(policy, "PATIENCE", 10**9)  # as no_second_best does
            _cancel(wq, others.call_safely, loop)
        assert not others.lock.locked()

        work = wq.enqueue(others.call_held, loop)
        wait_until(work.running)
        wq.cancel(work)
        wait_until(lambda: any(worker.goes_on for worker in wq.workers()))
        (worker,) = wq.workers()
        assert worker.goes_on is not None
        assert "holds something" in worker.goes_on
        assert __file__ in worker.goes_on
        assert "goes on since it holds something" in str(worker)
        leave.append(True)
        wq.flush(DEADLINE)
        assert not others.lock.locked()


@pytest.mark.usefixtures("no_second_best")
def test_loops_over_others_generators(install: Install) -> None:
    others = install("""
        closed = []

        def numbers():
            try:
                while True:
                    yield 1
            finally:
                closed.append(True)
    """)

    def work() -> None:
        for _ in others.numbers():
            pass

    with iowq.WorkQueue(1) as wq:
        _cancel(wq, work)
    assert others.closed == [True]


def test_generated_code_is_its_modules(install: Install) -> None:
    """What dataclasses, attrs or exec() make has no file of its own."""
    others = install("""
        import threading
        lock = threading.Lock()
        names = {}
        exec("def made():\\n    for _ in range(3): pass\\n", globals(), names)

        def update():
            lock.acquire()
            names["made"]()
            lock.release()
    """)

    def work() -> None:
        while True:
            others.update()

    with iowq.WorkQueue(1) as wq:
        for _ in range(50):
            _cancel(wq, work)
            assert not others.lock.locked()


def test_tqdm() -> None:
    """Its lock is every thread's."""
    nowhere = io.StringIO()

    def work() -> None:
        for _ in tqdm(range(10**9), mininterval=0, file=nowhere):
            pass

    with iowq.WorkQueue(1) as wq:
        for _ in range(30):
            _cancel(wq, work)
            other = threading.Thread(target=list, args=(tqdm(range(3), file=nowhere),), daemon=True)
            other.start()
            other.join(DEADLINE)
            assert not other.is_alive()


# ---- what is never interrupted


def test_a_thread_that_was_started_is_no_error() -> None:
    """`Thread.start` waits until the thread runs: it isn't left there."""
    started: list[threading.Thread] = []
    failed: list[threading.Thread] = []

    def work() -> None:
        while True:
            thread = threading.Thread(target=int)
            try:
                thread.start()
            except BaseException:
                failed.append(thread)
                raise
            started.append(thread)
            thread.join()

    with iowq.WorkQueue(1) as wq:
        for _ in range(100):
            _cancel(wq, work)
    assert started
    assert not failed


def test_an_import_is_never_torn(tmp_path: Path) -> None:
    """Not by cancel's patience, nor in a wait; the work ends after it."""
    (tmp_path / "slow.py").write_text(
        textwrap.dedent("""
            import threading, time
            begun.set()
            end = time.monotonic() + 2.5
            number = 0
            while time.monotonic() < end:
                number += 1
            threading.Event().wait(0.2)
            complete = True
        """)
    )
    result = run_python(f"""
        import builtins, sys, threading, iowq
        sys.path.insert(0, {str(tmp_path)!r})
        builtins.begun = threading.Event()

        def work():
            import slow
            while True:
                pass

        with iowq.WorkQueue(1) as wq:
            running = wq.enqueue(work)
            begun.wait()
            wq.cancel(running)
            wq.flush(20)
            assert running.cancelled()
            assert sys.modules["slow"].complete
    """)
    assert result.returncode == 0, result.stderr


@pytest.mark.timeout(900)
def test_pandas_imported_by_a_cancelled_work() -> None:
    """A torn import of it crashed the process later."""
    for delay in (0.02, 0.1, 0.3):
        result = run_python(
            f"""
            import io, time, iowq
            with iowq.WorkQueue(1) as wq:
                work = wq.enqueue(exec, "import pandas\\nwhile True: pass", {{}})
                while not work.running():
                    time.sleep(0.001)
                time.sleep({delay})
                wq.cancel(work)
                wq.flush(250)
                assert work.cancelled()
            import pandas
            assert pandas.read_csv(io.StringIO("a,b\\n1,2\\n")).b[0] == 2
        """,
            280,  # on 3.10 each line of the import is traced
        )
        assert result.returncode == 0, result.stderr


def test_os_walk_of_a_large_tree() -> None:
    with iowq.WorkQueue(1) as wq:

        def walk() -> None:
            while True:
                for _ in os.walk("/usr/lib"):
                    pass

        def count() -> None:
            while True:
                sum(1 for _ in os.walk("/usr/lib"))

        assert min(_cancel(wq, walk) for _ in range(3)) < 1
        assert min(_cancel(wq, count) for _ in range(3)) < 5
