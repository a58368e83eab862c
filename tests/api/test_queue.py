"""enqueue, flush, close: what a queue of callables does."""

from __future__ import annotations

import contextvars
import gc
import signal
import sys
import threading
import time
import traceback
import weakref
from pathlib import Path

import pytest

import iowq
from support import Blocker, run_python, wait_until


def test_runs_callables_with_any_arguments(wq: iowq.WorkQueue) -> None:
    seen: list[object] = []

    def record(*args: object, **kwargs: object) -> None:
        seen.append((args, kwargs))

    wq.enqueue(record)
    wq.enqueue(record, 1, "two", [3])
    wq.enqueue(record, fn=1, key=2, self=3, work=4, timeout=5)
    wq.enqueue_hashed("k", record, 1, fn=1, key=2, self=3)
    wq.flush()
    assert len(seen) == 4
    assert ((), {}) in seen
    assert ((1, "two", [3]), {}) in seen
    assert ((), {"fn": 1, "key": 2, "self": 3, "work": 4, "timeout": 5}) in seen
    assert ((1,), {"fn": 1, "key": 2, "self": 3}) in seen


def test_one_worker_starts_works_in_order() -> None:
    seen: list[int] = []
    with iowq.WorkQueue(1) as wq:
        for number in range(1000):
            wq.enqueue(seen.append, number)
    assert seen == list(range(1000))


def test_work_knows_its_state(blocker: Blocker) -> None:
    with iowq.WorkQueue(1) as wq:
        running = wq.enqueue(blocker)
        pending = wq.enqueue(int)
        blocker.wait_entered()
        assert running.running()
        assert not running.done()
        assert pending.pending()
        assert not pending.done()
        assert "pending of <class 'int'>" in repr(pending)
        blocker.release()
        wq.flush()
        assert running.done()
        assert not running.running()
        assert not running.cancelled()
        assert "done" in repr(running)


def test_works_see_the_callers_context(wq: iowq.WorkQueue) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")
    seen: list[str] = []

    def look_and_set() -> None:
        seen.append(variable.get())
        variable.set("leaked")

    variable.set("first")
    wq.enqueue(look_and_set)
    variable.set("second")
    wq.enqueue(look_and_set)
    wq.flush()
    assert sorted(seen) == ["first", "second"]
    assert variable.get() == "second"


def test_flush_waits_until_work_has_finished(wq: iowq.WorkQueue, blocker: Blocker) -> None:
    work = wq.enqueue(blocker)
    blocker.wait_entered()
    with pytest.raises(TimeoutError):
        wq.flush(timeout=0)
    with pytest.raises(TimeoutError):
        wq.flush(timeout=0.05)
    blocker.release()
    wq.flush(timeout=10)
    assert work.done()


def test_flush_does_not_wait_for_later_work(wq: iowq.WorkQueue, blocker: Blocker) -> None:
    first = Blocker()
    wq.enqueue(first)
    first.wait_entered()
    flushed = threading.Event()

    def flush() -> None:
        wq.flush()
        flushed.set()

    thread = threading.Thread(target=flush)
    thread.start()
    # The flush counts its works before it calls _wait.
    wait_until(lambda: "_wait" in _functions_of(thread))
    wq.enqueue(blocker)
    blocker.wait_entered()
    first.release()
    assert flushed.wait(10)
    thread.join()


def test_flush_of_an_empty_queue_returns(wq: iowq.WorkQueue) -> None:
    wq.flush()
    wq.flush(timeout=0)
    wq.flush(timeout=-1)


def test_flush_from_inside_a_work_is_an_error(wq: iowq.WorkQueue) -> None:
    errors: list[BaseException] = []

    def flush_and_close() -> None:
        for wait in (wq.flush, wq.close):
            try:
                wait()
            except RuntimeError as error:
                errors.append(error)

    wq.enqueue(flush_and_close)
    wq.flush(timeout=10)
    assert ["flush()" in str(e) or "shutdown()" in str(e) for e in errors] == [True, True]


def test_work_may_flush_another_queue(wq: iowq.WorkQueue) -> None:
    done: list[bool] = []
    with iowq.WorkQueue(1) as other:

        def flush_other() -> None:
            work = other.enqueue(int)
            other.flush()
            done.append(work.done())

        wq.enqueue(flush_other)
        wq.flush()
    assert done == [True]


def test_works_may_enqueue(wq: iowq.WorkQueue) -> None:
    seen: list[int] = []

    def again(left: int) -> None:
        seen.append(left)
        if left:
            wq.enqueue(again, left - 1)

    wq.enqueue(again, 100)
    wait_until(lambda: len(seen) == 101)


def test_close_waits_and_refuses(blocker: Blocker) -> None:
    wq = iowq.WorkQueue(1)
    wq.enqueue(blocker)
    pending = wq.enqueue(int)
    closer = threading.Thread(target=wq.close)
    closer.start()
    wait_until(lambda: "closed" in repr(wq))
    with pytest.raises(RuntimeError, match=r"after shutdown"):
        wq.enqueue(int)
    with pytest.raises(RuntimeError, match=r"after shutdown"):
        wq.enqueue_hashed("key", int)
    blocker.release()
    closer.join()
    assert pending.done()
    assert not pending.cancelled()
    assert wq.stats().workers == 0
    wq.close()
    wq.flush()
    wq.cancel_all()
    assert wq.cancel(pending) is iowq.Cancel.NOTFOUND


def test_create_makes_a_queue() -> None:
    with iowq.create(2, name="made") as wq:
        assert wq.name == "made"
        assert wq.enqueue(int).cancelled() is False


def test_grows_while_work_blocks_and_shrinks() -> None:
    with iowq.WorkQueue(16, idle_timeout=0.05) as wq:
        blocker = Blocker()
        for _ in range(20):
            wq.enqueue(blocker)
        blocker.wait_entered(16)
        stats = wq.stats()
        assert (stats.pending, stats.running, stats.workers, stats.idle) == (4, 16, 16, 0)
        blocker.release()
        wq.flush()
        wait_until(lambda: wq.stats().workers == 1)
        stats = wq.stats()
        assert (stats.pending, stats.running, stats.workers, stats.idle) == (0, 0, 1, 1)
        assert (stats.created, stats.retired) == (16, 15)


def test_short_works_use_few_workers() -> None:
    with iowq.WorkQueue(32) as wq:
        for _ in range(50_000):
            wq.enqueue(int)
        wq.flush()
        assert wq.stats().workers <= 8


def test_unannounced_blocking_of_the_only_runner_is_noticed(blocker: Blocker) -> None:
    with iowq.WorkQueue(2) as wq:
        wq.enqueue(blocker)
        blocker.wait_entered()
        done = threading.Event()
        wq.enqueue(done.set)
        assert done.wait(10)
        blocker.release()


def test_a_queue_without_references_finishes_its_work() -> None:
    blocker, seen = Blocker(), list[int]()
    wq = iowq.WorkQueue(1, name="orphan")
    wq.enqueue(blocker)
    for number in range(100):
        wq.enqueue_hashed(number % 3, seen.append, number)
    blocker.wait_entered()
    reference = weakref.ref(wq)
    del wq
    gc.collect()
    blocker.release()
    wait_until(lambda: len(seen) == 100)
    wait_until(lambda: (gc.collect(), reference())[1] is None)
    wait_until(lambda: not _native_threads("orphan"))


def test_the_last_reference_may_go_on_a_worker() -> None:
    """Its own worker then ends the queue, and must not wait for itself."""
    for _ in range(20):
        wq = iowq.WorkQueue(2, name="self-end")
        wq.enqueue(int)
        wq.enqueue(time.sleep, 0.002)
        del wq
    wait_until(lambda: not _native_threads("self-end"))


def test_finished_works_keep_nothing_alive(wq: iowq.WorkQueue) -> None:
    class Argument:
        pass

    argument = Argument()
    reference = weakref.ref(argument)
    work = wq.enqueue(id, argument)
    hashed = wq.enqueue_hashed(argument, id, argument)
    wq.flush()
    del argument
    wait_until(lambda: (gc.collect(), reference())[1] is None)
    assert work.done()
    assert hashed.done()


def test_no_memory_is_lost() -> None:
    import resource

    def one_round() -> None:
        with iowq.WorkQueue(4) as wq:
            for number in range(20_000):
                wq.enqueue_hashed(number % 100, int)

    for _ in range(3):
        one_round()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(10):
        one_round()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # KiB


def test_thousand_queues() -> None:
    queues = [iowq.WorkQueue(4) for _ in range(1000)]
    works = [wq.enqueue(int) for wq in queues]
    for wq in queues:
        wq.close()
    assert all(work.done() for work in works)


def test_ctrl_c_ends_a_flush() -> None:
    result = run_python("""
        import iowq, os, signal, threading, time
        wq = iowq.WorkQueue(1)
        stop = threading.Event()
        wq.enqueue(stop.wait, 60)
        begun = time.monotonic()
        try:
            threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
            wq.flush()
        except KeyboardInterrupt:
            print("interrupted", time.monotonic() - begun < 20)
        stop.set()
        wq.close()
        print("closed")
    """)
    assert result.stdout.split() == ["interrupted", "True", "closed"], result


def test_ctrl_c_ends_a_close_which_can_be_repeated() -> None:
    result = run_python("""
        import iowq, os, signal, threading
        stop = threading.Event()
        wq = iowq.WorkQueue(1)
        work = wq.enqueue(stop.wait, 60)
        try:
            threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
            with wq:
                pass
        except KeyboardInterrupt:
            print("interrupted")
        stop.set()
        wq.close()
        print(work.done())
    """)
    assert result.stdout.split() == ["interrupted", "True"], result


def test_process_wide_signals_reach_the_main_thread(wq: iowq.WorkQueue, blocker: Blocker) -> None:
    seen: list[threading.Thread] = []
    wq.enqueue(blocker)
    blocker.wait_entered()
    before = signal.signal(signal.SIGUSR1, lambda *_: seen.append(threading.current_thread()))
    try:
        signal.raise_signal(signal.SIGUSR1)
        wait_until(lambda: seen)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert seen == [threading.main_thread()]


def test_children_inherit_no_blocked_signals(wq: iowq.WorkQueue) -> None:
    import subprocess

    masks: list[str] = []

    def child() -> None:
        text = subprocess.run(
            ["grep", "SigBlk", "/proc/self/status"], capture_output=True, text=True, check=True
        ).stdout
        masks.append(text.split()[1])

    wq.enqueue(child)
    wq.flush()
    assert [int(mask, 16) for mask in masks] == [0]


def _native_threads(name: str) -> list[str]:
    names = []
    for comm in Path("/proc/self/task").glob("*/comm"):
        try:
            names.append(comm.read_text().strip())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return [found for found in names if found.startswith(name)]


def _functions_of(thread: threading.Thread) -> list[str]:
    frame = sys._current_frames().get(thread.ident or 0)
    return [entry.name for entry in traceback.extract_stack(frame)] if frame else []
