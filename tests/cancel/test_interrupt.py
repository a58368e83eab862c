"""Cancel of Python code that computes, or waits for other threads."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import queue
import socket
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

import iowq
from iowq._cancel import monitoring
from iowq._executor import queue as queue_module
from support import DEADLINE, Blocker, wait_until, waits_for_a_lock


def _cancel_and_time(wq: iowq.WorkQueue, work: iowq.Work) -> float:
    begun = time.perf_counter()
    assert wq.cancel(work) is iowq.Cancel.RUNNING
    wait_until(work.done)
    return time.perf_counter() - begun


# ---- waits: each ends, its primitive is intact, other threads miss nothing


def _queue_get() -> tuple[Callable[[], object], Callable[[], object]]:
    items: queue.Queue[int] = queue.Queue()

    def check() -> None:
        items.put(1)
        assert items.get(timeout=5) == 1

    return items.get, check


def _queue_get_with_timeout() -> Any:
    items: queue.Queue[int] = queue.Queue()
    return lambda: items.get(timeout=60), lambda: items.put(1)


def _queue_put() -> Any:
    items: queue.Queue[int] = queue.Queue(1)
    items.put(1)

    def check() -> None:
        assert items.get(timeout=5) == 1
        items.put(2, timeout=5)

    return lambda: items.put(0), check


def _queue_join() -> Any:
    items: queue.Queue[int] = queue.Queue()
    items.put(1)
    return items.join, items.task_done


def _event_wait() -> Any:
    event = threading.Event()

    def check() -> None:
        assert not event._cond._waiters  # type: ignore[attr-defined]
        event.set()
        assert event.wait(5)

    return event.wait, check


def _event_wait_with_timeout() -> Any:
    event = threading.Event()
    return lambda: event.wait(60), event.set


def _condition_wait() -> Any:
    condition = threading.Condition()

    def wait() -> None:
        with condition:
            condition.wait()

    def check() -> None:
        assert condition.acquire(timeout=5)
        assert not condition._waiters  # type: ignore[attr-defined]
        condition.release()

    return wait, check


def _condition_wait_for_with_plain_lock() -> Any:
    condition = threading.Condition(threading.Lock())

    def wait() -> None:
        with condition:
            condition.wait_for(lambda: False, timeout=60)

    def check() -> None:
        assert condition.acquire(timeout=5)
        condition.release()

    return wait, check


def _semaphore_acquire() -> Any:
    semaphore = threading.Semaphore(0)

    def check() -> None:
        semaphore.release()
        assert semaphore.acquire(timeout=5)
        assert not semaphore.acquire(timeout=0.01)

    return semaphore.acquire, check


def _barrier_wait() -> Any:
    barrier = threading.Barrier(2)

    def check() -> None:
        assert barrier.n_waiting == 0
        assert not barrier.broken

    return barrier.wait, check


def _future_result() -> Any:
    future: Future[int] = Future()

    def check() -> None:
        future.set_result(1)
        assert future.result(5) == 1

    return future.result, check


def _lock_acquire() -> Any:
    lock = threading.Lock()
    lock.acquire()

    return lambda: lock.acquire(), lock.release


def _lock_acquire_with_timeout() -> Any:
    lock = threading.Lock()
    lock.acquire()
    return lambda: lock.acquire(timeout=60), lock.release


def _with_lock() -> Any:
    lock = threading.Lock()
    lock.acquire()

    def wait() -> None:
        with lock:
            pass

    return wait, lock.release


def _rlock_acquire() -> Any:
    lock = threading.RLock()
    lock.acquire()
    return lambda: lock.acquire(), lock.release


def _simple_queue_get() -> Any:
    items: queue.SimpleQueue[int] = queue.SimpleQueue()
    return items.get, lambda: items.put(1)


def _with_condition() -> Any:
    condition = threading.Condition()
    condition.acquire()

    def wait() -> None:
        with condition:
            pass

    return wait, condition.release


WAITS = [
    *(_queue_get, _queue_get_with_timeout, _queue_put, _queue_join, _event_wait),
    *(_event_wait_with_timeout, _condition_wait, _condition_wait_for_with_plain_lock),
    *(_semaphore_acquire, _barrier_wait, _future_result),
]
LOCKS = [
    *(_lock_acquire, _lock_acquire_with_timeout, _with_lock, _rlock_acquire, _with_condition),
    _simple_queue_get,
]


def _check_wait(case: Callable[..., Any]) -> None:
    with iowq.WorkQueue(1) as wq:
        wait, check = case()
        errors: list[BaseException] = []

        def work() -> None:
            try:
                wait()
            except BaseException as error:
                errors.append(error)
                raise

        running = wq.enqueue(work)
        wait_until(lambda: waits_for_a_lock(wq))
        assert _cancel_and_time(wq, running) < 10
        assert [type(error) for error in errors] == [iowq.Cancelled]
        assert running.cancelled()
        check()
        after = wq.enqueue(time.sleep, 0.001)
        wq.flush(timeout=10)
        assert after.done()
        assert not after.cancelled()


@pytest.mark.parametrize("case", WAITS + LOCKS)
def test_cancel_ends_a_wait(case: Callable[[], Any]) -> None:
    _check_wait(case)


@pytest.mark.parametrize("seconds", [None, 60])
def test_cancel_of_thread_join(seconds: float | None) -> None:
    """Up to 3.12, too, where an exception in it would mark a live thread as dead."""
    release = threading.Event()
    thread = threading.Thread(target=release.wait, daemon=True)
    thread.start()
    with iowq.WorkQueue(1) as wq:
        work = wq.enqueue(thread.join, seconds)
        wait_until(lambda: waits_for_a_lock(wq))
        wq.cancel(work)
        wait_until(work.done)
        assert work.cancelled()
        assert thread.is_alive()
        release.set()
        wq.flush(timeout=10)
    thread.join()
    assert not thread.is_alive()


def test_a_notify_is_never_lost() -> None:
    """Each item put is got, though waiters are cancelled all the time."""
    items: queue.Queue[int] = queue.Queue()
    got: list[int] = []
    stop = threading.Event()

    def get() -> None:
        while True:
            got.append(items.get())

    def put() -> None:
        while not stop.is_set():
            items.put(1)
            time.sleep(0.0002)

    with iowq.WorkQueue(4) as wq:
        producer = threading.Thread(target=put)
        producer.start()
        for _ in range(400):
            works = [wq.enqueue(get) for _ in range(3)]
            wait_until(lambda works=works: works[2].running())  # type: ignore[misc]
            for work in works[:2]:
                wq.cancel(work)
            wait_until(lambda works=works: works[0].done() and works[1].done())  # type: ignore[misc]
            put_so_far = len(got) + 1
            wait_until(lambda n=put_so_far: len(got) >= n)  # type: ignore[misc]
            wq.cancel(works[2])
            wait_until(works[2].done)
        stop.set()
        producer.join()
        left = wq.enqueue(get)
        wait_until(items.empty)
        wq.cancel(left)
    assert not items.not_empty._waiters  # type: ignore[attr-defined]


def test_cancel_ends_a_wait_for_another_queue(
    blocker: Blocker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_module, "_SLICE_MS", 600_000)  # it doesn't end by itself
    with iowq.WorkQueue(1) as wq, iowq.WorkQueue(1) as other:
        other.uncancellable.enqueue(blocker)
        blocker.wait_entered()
        work = wq.enqueue(other.flush)
        wait_until(lambda: waits_for_a_lock(wq))
        _cancel_and_time(wq, work)
        assert work.cancelled()
        blocker.release()


# ---- callbacks for objects that ended: an exception there would be swallowed


class _Object:
    me: object = None


def _callbacks(called: list[int]) -> None:
    while True:
        ended = _Object()
        _ref = weakref.ref(ended, lambda _ref: called.append(1))
        del ended


def _finalizers(called: list[int]) -> None:
    while True:
        ended = _Object()
        weakref.finalize(ended, called.append, 1)
        del ended


def _collections(called: list[int]) -> None:
    refs: set[object] = set()

    def gone(ref: object) -> None:
        called.append(1)
        refs.discard(ref)

    while True:
        ended = _Object()
        ended.me = ended
        refs.add(weakref.ref(ended, gone))
        del ended


@pytest.mark.parametrize("function", [_callbacks, _finalizers, _collections])
def test_callbacks_are_not_interrupted(
    function: Callable[[list[int]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    swallowed: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", swallowed.append)
    with iowq.WorkQueue(1) as wq:
        for _ in range(30):
            called: list[int] = []
            work = wq.enqueue(function, called)
            wait_until(lambda called=called: called)  # type: ignore[misc]
            wq.cancel(work)
            wait_until(work.done)
            assert work.cancelled()
    assert not swallowed


def test_callbacks_of_collections_are_not_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    swallowed: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", swallowed.append)

    def callback(_phase: str, _info: object) -> None:
        for _ in range(3):
            len("")

    gc.callbacks.append(callback)
    try:
        with iowq.WorkQueue(1) as wq:
            for _ in range(10):
                called: list[int] = []
                work = wq.enqueue(_collections, called)
                wait_until(lambda called=called: called)  # type: ignore[misc]
                _cancel_and_time(wq, work)
    finally:
        gc.callbacks.remove(callback)
    assert not swallowed


# ---- computing


def _loop() -> None:
    n = 0
    while True:
        n += 1


def _empty_loop() -> None:
    while True:
        pass


def _calls() -> None:
    while True:
        len([])


def _functions() -> None:
    def inner() -> None:
        pass

    while True:
        inner()


def _generators() -> None:
    for _ in iter(int, 1):
        pass


def _hashes() -> None:
    data = bytes(1_000_000)
    while True:
        hashlib.sha256(data)


def _swallows() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        while True:
            with contextlib.suppress(OSError):
                ours.recv(1)


def _swallows_exceptions() -> None:
    while True:
        with contextlib.suppress(Exception):
            time.sleep(60)


COMPUTING = [
    *(_loop, _empty_loop, _calls, _functions, _generators, _hashes, _swallows),
    _swallows_exceptions,
]


@pytest.mark.parametrize("function", COMPUTING)
def test_cancel_ends_code_that_computes(function: Callable[[], None]) -> None:
    cleaned: list[str] = []
    entered = threading.Event()

    def work() -> None:
        try:
            entered.set()
            function()
        finally:
            time.sleep(0.01)
            cleaned.append("up")

    with iowq.WorkQueue(1) as wq:
        running = wq.enqueue(work)
        wait_until(entered.is_set)
        time.sleep(0.01)
        _cancel_and_time(wq, running)
        assert cleaned == ["up"]
        assert running.cancelled()
        after = wq.enqueue(sum, range(100_000))
        wq.flush(timeout=10)
        assert not after.cancelled()


def test_a_try_whose_first_statement_is_a_loop() -> None:
    """3.11 and 3.12 lose the `finally` of such a loop for other asynchronous exceptions."""
    for _ in range(20):
        cleaned: list[str] = []
        entered = threading.Event()

        def work(cleaned: list[str] = cleaned, entered: threading.Event = entered) -> None:
            entered.set()
            try:
                while True:
                    pass
            finally:
                cleaned.append("up")

        with iowq.WorkQueue(1) as wq:
            running = wq.enqueue(work)
            wait_until(entered.is_set)
            wq.cancel(running)
            wq.flush(timeout=10)
        assert cleaned == ["up"]


def test_a_loop_of_long_calls_is_ended_by_the_next_turn_but_one() -> None:
    turns = 0
    more: list[int] = []

    def work() -> None:
        nonlocal turns
        while True:
            turns += 1
            hashlib.pbkdf2_hmac("sha256", b"password", b"salt", 300_000)

    with iowq.WorkQueue(1) as wq:
        for _ in range(3):
            running = wq.enqueue(work)
            wait_until(running.running)
            time.sleep(0.02)
            before = turns
            _cancel_and_time(wq, running)
            assert running.cancelled()
            more.append(turns - before)
    assert min(more) <= 2  # whoever cancels may have to wait for a processor meanwhile


@pytest.mark.usefixtures("no_second_best")
def test_joins_with_a_timeout_in_a_loop() -> None:
    """Each of them ends, and the loop with it."""
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait, daemon=True)
    thread.start()

    def work() -> None:
        while thread.is_alive():
            thread.join(0.1)

    with iowq.WorkQueue(1) as wq:
        for _ in range(5):
            running = wq.enqueue(work)
            wait_until(lambda: waits_for_a_lock(wq))
            _cancel_and_time(wq, running)
            assert running.cancelled()
    stop.set()
    thread.join()


def test_a_loop_in_c_goes_on() -> None:
    """It never comes back to the interpreter: that can't be cancelled, and says so."""
    with iowq.WorkQueue(1) as wq:
        work = wq.enqueue(sum, range(30_000_000))
        wait_until(work.running)
        wq.cancel(work)
        wq.flush(timeout=30)
        assert work.done()
        assert not work.cancelled()


def test_a_large_function_is_ended_soon() -> None:
    """Its code is analysed once, by the canceller, while the work goes on."""
    loops = "\n".join(f"        while n == {number}: n += 1" for number in range(2000))
    text = f"def work(entered, n=0):\n    try:\n{loops}\n        entered.set()\n"
    text += "        while True: n += 1\n    finally:\n        entered.clear()\n"
    names: dict[str, Any] = {}
    exec(text, names)
    entered = threading.Event()
    with iowq.WorkQueue(1) as wq:
        future = wq.submit(names["work"], entered)
        assert entered.wait(DEADLINE)
        assert wq.cancel(future) is iowq.Cancel.RUNNING
        wq.flush(DEADLINE)
    assert future.cancelled()
    assert not entered.is_set()


@pytest.mark.skipif(sys.version_info < (3, 12), reason="has no sys.monitoring")
def test_no_event_is_left_on_by_a_work_without_stack() -> None:
    """It can't be disarmed where it is; it is at its end."""
    turns = -1
    mine: list[int] = []  # others' may be there: cancel_support() tries a loop of its own

    def begin() -> None:
        mine.append(id(iowq.current_work()))
        work()

    def work() -> None:
        nonlocal turns
        try:
            work()
        except RecursionError:
            turns = max(turns, 0)
            while turns < 3000:  # more than it looks at before it is disarmed for a while
                turns += mine[0] in monitoring._codes

    with iowq.WorkQueue(1) as wq:
        running = wq.enqueue(begin)
        wait_until(lambda: turns == 0)
        assert wq.cancel(running) is iowq.Cancel.RUNNING
        wq.flush(DEADLINE)
    assert mine == [id(running)]
    assert id(running) not in monitoring._codes
    assert id(work.__code__) not in monitoring._senders


def test_locks_taken_by_hand_are_given_back() -> None:
    """Cancel never comes between `acquire()` and `try`."""
    lock = threading.Lock()

    def take() -> None:
        while True:
            lock.acquire()
            try:
                len("held")
            finally:
                lock.release()

    with iowq.WorkQueue(1) as wq:
        for _ in range(300):
            work = wq.enqueue(take)
            wait_until(work.running)
            wq.cancel(work)
            wait_until(work.done)
            assert work.cancelled()
            assert not lock.locked()


@pytest.mark.usefixtures("no_second_best")
def test_what_is_given_back_is_given_back() -> None:
    """Cancel doesn't come into `__exit__`, not even when that waits for a lock."""
    held = threading.Lock()
    inside = threading.Semaphore(0)
    done: list[str] = []

    class Resource:
        def __enter__(self) -> None:
            pass

        def __exit__(self, *_: object) -> None:
            inside.release()
            with held:
                done.append("given back")

    def use() -> None:
        with Resource():
            pass

    with iowq.WorkQueue(1) as wq:
        held.acquire()
        work = wq.enqueue(use)
        assert inside.acquire(timeout=10)
        wq.cancel(work)
        time.sleep(0.1)
        held.release()
        wq.flush(timeout=10)
        assert done == ["given back"]


class _Counts:
    def __init__(self) -> None:
        self.taken = self.given = 0

    def take(self) -> None:
        self.taken += 1

    def give(self) -> None:
        self.given += 1


def _finally(counts: _Counts) -> None:
    while True:
        counts.take()
        try:
            len("taken")
        finally:
            counts.give()


def _finally_and_return(counts: _Counts) -> None:
    def once() -> int:
        counts.take()
        try:
            return len("taken")
        finally:
            counts.give()

    while True:
        once()


def _finally_of_several_steps(counts: _Counts) -> None:
    while True:
        counts.take()
        try:
            int("no number")
        except ValueError:
            len("handled")
        finally:
            try:
                len("first step")
            except ValueError:
                len("failed")
            for _ in range(2):
                len("second step")
            with contextlib.nullcontext():
                counts.give()


@pytest.mark.parametrize("use", [_finally, _finally_and_return, _finally_of_several_steps])
def test_a_finally_that_was_begun_is_ended(use: Callable[[_Counts], None]) -> None:
    """Also when no exception has led there, and whatever its functions' names."""
    with iowq.WorkQueue(1) as wq:
        for _ in range(100):
            counts = _Counts()
            work = wq.enqueue(use, counts)
            wait_until(work.running)
            wq.cancel(work)
            wait_until(work.done)
            assert work.cancelled()
            assert counts.taken == counts.given


@pytest.mark.usefixtures("no_second_best")
def test_a_loop_around_a_finally_is_ended_at_once() -> None:
    """Nothing but the end of its turns is a good place there."""

    def loop() -> None:
        while True:
            try:
                len("builtin")
            finally:
                len("builtin")

    with iowq.WorkQueue(1) as wq:
        for _ in range(5):
            work = wq.enqueue(loop)
            wait_until(work.running)
            _cancel_and_time(wq, work)
            assert work.cancelled()


def test_a_second_cancel_does_not_disturb_clean_up() -> None:
    steps: list[int] = []
    entered = threading.Event()

    def work() -> None:
        try:
            entered.set()
            _loop()
        finally:
            for n in range(5):
                time.sleep(0.005)
                steps.append(n)

    with iowq.WorkQueue(1) as wq:
        running = wq.enqueue(work)
        wait_until(entered.is_set)
        wq.cancel(running)
        wait_until(lambda: steps)
        while not running.done():
            wq.cancel(running)
            time.sleep(0.001)
    assert steps == list(range(5))
    assert running.cancelled()


def test_nothing_reaches_the_next_work() -> None:
    """Cancel meets the work at its very end; the next one computes, blocks and waits."""
    ran: list[int] = []
    gate = threading.Semaphore(0)

    def after(n: int) -> None:
        for _ in range(100):
            len(ran)
        time.sleep(0.0001)
        with contextlib.suppress(queue.Empty):
            queue.Queue[int]().get(timeout=0.0001)
        ran.append(n)

    with iowq.WorkQueue(1) as wq:
        for n in range(1000):
            first = wq.enqueue(gate.acquire)
            second = wq.enqueue(after, n)
            gate.release()
            wq.cancel(first)
            wait_until(second.done)
            assert not second.cancelled()
            while gate.acquire(blocking=False):
                pass
    assert ran == list(range(1000))


def test_exceptions_appear_only_where_it_blocks_if_so_wished() -> None:
    seen: list[BaseException] = []
    computed = threading.Event()

    def work() -> None:
        while not iowq.cancel_requested():
            pass
        for _ in range(100_000):
            pass
        computed.set()
        try:
            threading.Event().wait()
        except BaseException as error:
            seen.append(error)
            raise

    with iowq.WorkQueue(1, interrupt="blocked") as wq:
        running = wq.enqueue(work)
        wait_until(running.running)
        wq.cancel(running)
        assert computed.wait(30)
        wait_until(running.done)
        assert isinstance(seen[0], iowq.Cancelled)
        assert running.cancelled()


def test_bad_policy() -> None:
    with pytest.raises(ValueError, match="interrupt must be 'anywhere' or 'blocked', not 'never'"):
        iowq.WorkQueue(1, interrupt="never")  # type: ignore[arg-type]


def test_a_tracer_of_another_thread_is_left_alone() -> None:
    events: list[str] = []

    def tracer(_frame: object, event: str, _arg: object) -> None:
        events.append(event)

    sys.settrace(tracer)
    try:
        with iowq.WorkQueue(1) as wq:
            work = wq.enqueue(_loop)
            wait_until(work.running)
            wq.cancel(work)
            wq.flush(timeout=10)
        assert sys.gettrace() is tracer
    finally:
        sys.settrace(None)
    assert events


@pytest.fixture
def fast_switches() -> Iterator[None]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("fast_switches")
def test_with_a_tiny_switch_interval() -> None:
    with iowq.WorkQueue(4) as wq:
        for function in (_loop, threading.Event().wait, _calls, queue.Queue[int]().get) * 10:
            work = wq.enqueue(function)
            wait_until(work.running)
            wq.cancel(work)
            wait_until(work.done)
            assert work.cancelled()


def test_cancel_from_a_done_work_of_another_queue(blocker: Blocker) -> None:
    """Thousands at once, from a work."""
    with iowq.WorkQueue(2) as wq, iowq.WorkQueue(1) as other:
        wq.enqueue(blocker)
        blocker.wait_entered()
        works = [wq.enqueue(blocker) for _ in range(5000)]
        other.enqueue(lambda: [wq.cancel(work) for work in works])
        other.enqueue(wq.cancel_all)
        other.flush(timeout=30)
        wq.flush(timeout=30)
        assert all(work.cancelled() for work in works)


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_thousands_of_blocked_workers_are_freed() -> None:
    """And few descriptors are needed for it."""
    count = 2000
    before = _descriptors()
    ours, theirs = socket.socketpair()
    stack_size = threading.stack_size(128 * 1024)
    try:
        with ours, theirs, iowq.WorkQueue(count) as wq:
            works = [wq.enqueue(ours.recv, 1) for _ in range(count)]
            wait_until(lambda: wq.stats().running == count)
            wq.cancel_all()
            assert _descriptors() < before + 100
            wq.flush(DEADLINE)
            assert all(work.cancelled() for work in works)
    finally:
        threading.stack_size(stack_size)


def test_500_blocked_workers_are_freed_at_once() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, iowq.WorkQueue(500) as wq:
        works = [wq.enqueue(ours.recv, 1) for _ in range(500)]
        wait_until(lambda: wq.stats().running == 500)
        wait_until(lambda: all(worker.blocked_in for worker in wq.workers()))
        wq.cancel_all()
        wq.flush(DEADLINE)
        assert all(work.cancelled() for work in works)
