"""Futures: what their owner may rely on."""

from __future__ import annotations

import concurrent.futures as cf
import gc
import os
import random
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

import iowq
from support import DEADLINE, Blocker, wait_until


@pytest.fixture
def wq() -> Iterator[iowq.WorkQueue]:
    with iowq.WorkQueue(4) as queue:
        yield queue


def fail(error: BaseException) -> None:
    raise error


def test_states(blocker: Blocker) -> None:
    with iowq.WorkQueue(1) as wq:
        running = wq.submit(blocker)
        pending = wq.submit(int, "7")
        blocker.wait_entered()
        assert running.running()
        assert not running.done()
        assert not pending.running()
        assert pending.pending()
        blocker.release()
        assert pending.result(DEADLINE) == 7
        assert pending.done()
        assert not pending.cancelled()
        assert pending.exception() is None
        assert "pending" not in repr(pending)
    assert isinstance(pending, cf.Future)
    assert isinstance(pending, iowq.Work)


def test_nobody_waits_nothing_is_made(wq: iowq.WorkQueue) -> None:
    """The condition and the lists take longer than the rest of a future."""
    future = wq.submit(int)
    wq.flush()
    assert future.result() == 0
    assert future._shared is None


def test_result_waits_and_times_out(wq: iowq.WorkQueue, blocker: Blocker) -> None:
    future = wq.submit(blocker)
    for wait in (future.result, future.exception):
        with pytest.raises(cf.TimeoutError):
            wait(timeout=0.01)
    assert not future.done()
    assert not future.cancelled()
    blocker.release()
    assert future.result(DEADLINE) is None


def test_errors_come_with_the_works_own_frames(wq: iowq.WorkQueue) -> None:
    def inner() -> None:
        raise LookupError("no such row")

    def outer() -> None:
        try:
            inner()
        except LookupError as error:
            raise OSError("no answer") from error

    future = wq.submit(outer)
    with pytest.raises(OSError, match="no answer") as caught:
        future.result(DEADLINE)
    assert caught.value is future.exception()
    names = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert names[-1] == "outer"
    cause = caught.value.__cause__
    assert cause is not None
    assert [f.name for f in traceback.extract_tb(cause.__traceback__)] == ["outer", "inner"]


class FalsyError(Exception):
    """Older versions of concurrent.futures take such an error for none (bpo-44968)."""

    def __bool__(self) -> bool:
        return False


@pytest.mark.parametrize(
    "error", [ValueError("bad"), SystemExit(3), KeyboardInterrupt(), GeneratorExit(), FalsyError()]
)
def test_whatever_is_raised_is_the_outcome(wq: iowq.WorkQueue, error: BaseException) -> None:
    future = wq.submit(fail, error)
    assert future.exception(DEADLINE) is error
    with pytest.raises(type(error)):
        future.result()
    assert wq.submit(int).result(DEADLINE) == 0  # the worker lives


# ---- cancel


def test_cancel_pending(blocker: Blocker) -> None:
    called: list[cf.Future[int]] = []
    with iowq.WorkQueue(1) as wq:
        wq.submit(blocker)
        future = wq.submit(int)
        future.add_done_callback(called.append)
        assert future.cancel()
        assert future.cancel()
        assert future.cancelled()
        assert future.done()
        assert called == [future]
        for wait in (future.result, future.exception):
            with pytest.raises(cf.CancelledError):
                wait()
        blocker.release()


def test_cancel_of_running_work_ends_it(wq: iowq.WorkQueue) -> None:
    """False: it might finish all the same. What became of it, the future tells."""
    called: list[object] = []
    reader, writer = os.pipe()
    future = wq.submit(os.read, reader, 1)
    future.add_done_callback(called.append)
    wait_until(future.running)
    assert not future.cancel()
    with pytest.raises(cf.CancelledError):
        future.result(DEADLINE)
    assert future.cancelled()
    assert future.cancel()
    assert called == [future]
    os.close(reader)
    os.close(writer)


def test_cancel_of_running_work_that_finishes_all_the_same(
    wq: iowq.WorkQueue, blocker: Blocker
) -> None:
    future = wq.uncancellable.submit(blocker)
    blocker.wait_entered()
    assert not future.cancel()
    blocker.release()
    assert future.result(DEADLINE) is None
    assert not future.cancelled()
    assert not future.cancel()


def test_work_that_fails_while_it_is_cancelled_is_cancelled(wq: iowq.WorkQueue) -> None:
    """Whatever the library between made of the system call's error."""

    def wrapped() -> None:
        try:
            time.sleep(60)
        except OSError:
            raise LookupError("connection lost") from None

    future = wq.submit(wrapped)
    wait_until(future.running)
    time.sleep(0.01)
    future.cancel()
    with pytest.raises(cf.CancelledError):
        future.result(DEADLINE)


def test_waiting_for_a_cancelled_future(wq: iowq.WorkQueue) -> None:
    slow = [wq.submit(time.sleep, 60) for _ in range(3)]
    quick = wq.submit(int)
    futures: list[iowq.Future[Any]] = [*slow, quick]
    done, not_done = cf.wait(futures, return_when=cf.FIRST_COMPLETED)
    assert done == {quick}
    for future in slow:
        future.cancel()
    done, not_done = cf.wait(futures, timeout=DEADLINE)
    assert done == set(futures)
    assert not not_done
    assert set(cf.as_completed(futures, timeout=DEADLINE)) == done


def test_futures_of_several_pools_are_waited_for_together(wq: iowq.WorkQueue) -> None:
    with cf.ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(int, 1), wq.submit(int, 2), pool.submit(int, 3), wq.submit(int, 4)]
        assert sorted(f.result() for f in cf.as_completed(futures, DEADLINE)) == [1, 2, 3, 4]


# ---- callbacks


def test_callbacks_run_in_order_even_if_one_raises(
    wq: iowq.WorkQueue, blocker: Blocker, caplog: pytest.LogCaptureFixture
) -> None:
    called: list[object] = []
    future = wq.submit(blocker)
    blocker.wait_entered()
    future.add_done_callback(lambda _: called.append(1))
    future.add_done_callback(lambda _: fail(ValueError("callback")))
    future.add_done_callback(lambda _: fail(SystemExit("callback")))
    future.add_done_callback(called.append)
    blocker.release()
    wq.flush()
    assert called == [1, future]
    assert caplog.text.count("exception calling callback") == 2
    future.add_done_callback(lambda _: called.append("late"))
    assert called[-1] == "late"
    assert wq.submit(int).result(DEADLINE) == 0


def test_a_callback_may_do_anything(wq: iowq.WorkQueue, blocker: Blocker) -> None:
    """Submit, add callbacks, wait for itself, cancel."""
    got: list[Any] = []

    def callback(future: cf.Future[Any]) -> None:
        got.append(future.result())
        future.add_done_callback(lambda _: got.append("nested"))
        got.append(future.cancel())
        got.append(wq.submit(int, "5"))

    future = wq.submit(blocker)
    future.add_done_callback(callback)
    blocker.release()
    wait_until(lambda: len(got) == 4)
    assert got[:3] == [None, "nested", False]
    assert got[3].result(DEADLINE) == 5


def test_cancel_does_not_reach_a_finished_works_callbacks(wq: iowq.WorkQueue) -> None:
    """The work is over, whatever its worker does now."""
    entered, ended = threading.Event(), threading.Event()
    reader, writer = os.pipe()

    def callback(_: object) -> None:
        entered.set()
        os.read(reader, 1)
        ended.set()

    gate = Blocker()
    future = wq.submit(gate)
    future.add_done_callback(callback)
    gate.release()
    assert entered.wait(DEADLINE)
    assert not future.cancel()
    wq.cancel_all()
    assert not ended.wait(0.2)
    os.write(writer, b"x")
    assert ended.wait(DEADLINE)
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("method", ["set_result", "set_exception"])
def test_outcomes_from_outside_are_refused(
    wq: iowq.WorkQueue, blocker: Blocker, method: str
) -> None:
    future = wq.submit(blocker)
    blocker.wait_entered()
    with pytest.raises(cf.InvalidStateError, match="its queue alone"):
        getattr(future, method)(ValueError())
    with pytest.raises(cf.InvalidStateError, match="its queue alone"):
        future.set_running_or_notify_cancel()
    blocker.release()
    assert future.result(DEADLINE) is None


# ---- memory


class Thing:
    """Something whose end can be seen."""


def test_nothing_is_kept_longer_than_it_is_needed(wq: iowq.WorkQueue) -> None:
    thing = Thing()
    gone = weakref.ref(thing)
    future = wq.submit(lambda _: None, thing)
    del thing
    wq.flush()
    assert gone() is None
    assert future.result() is None


def test_exceptions_make_no_cycles(wq: iowq.WorkQueue) -> None:
    """Without the collector: a traceback holds frames, and with them what they hold."""
    gc.collect()
    gc.disable()
    try:
        thing = Thing()
        gone = weakref.ref(thing)

        def work(thing: Thing) -> None:
            raise LookupError(repr(thing))

        future = wq.submit(work, thing)
        del thing
        for _ in range(2):
            with pytest.raises(LookupError):
                future.result(DEADLINE)
        wq.flush()
        future_gone = weakref.ref(future)
        del future
        wait_until(lambda: future_gone() is None)
        wait_until(lambda: gone() is None)
    finally:
        gc.enable()


def test_exceptions_with_cycles_of_their_own_are_collected(wq: iowq.WorkQueue) -> None:
    def work() -> None:
        error = LookupError("x")
        error.args = (error, sys._getframe())
        raise error

    future = wq.submit(work)
    cf.wait([future])
    gone = weakref.ref(future)
    del future
    wq.flush()
    wait_until(lambda: (gc.collect(), gone() is None)[1])


def test_huge_results(wq: iowq.WorkQueue) -> None:
    assert len(wq.submit(bytes, 1 << 28).result(DEADLINE)) == 1 << 28


# ---- several threads


def test_one_final_state_whoever_cancels_and_waits() -> None:
    """Works, cancels, waits and callbacks meet at any instant; nobody sleeps for ever."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    stop = time.monotonic() + float(os.environ.get("IOWQ_FUTURES_SECONDS", "4"))
    try:
        with iowq.WorkQueue(8) as wq:
            while time.monotonic() < stop:
                _race(wq)
    finally:
        sys.setswitchinterval(interval)


def _race(wq: iowq.WorkQueue) -> None:
    pauses = [0.0, 0.0, 0.0005]
    futures = [wq.submit(time.sleep, random.choice(pauses)) for _ in range(30)]
    called: list[cf.Future[None]] = []
    seen: list[dict[int, str]] = []

    def wait() -> None:
        seen.append({id(f): _outcome(f) for f in _shuffled(futures)})

    def cancel() -> None:
        for future in _shuffled(futures)[:15]:
            future.cancel()

    def gather() -> None:
        seen.append({id(f): _outcome(f) for f in cf.wait(futures, DEADLINE).done})

    def add_callbacks() -> None:
        for future in _shuffled(futures):
            future.add_done_callback(called.append)

    actors = [wait, wait, cancel, gather, gather, add_callbacks]
    threads = [threading.Thread(target=actor) for actor in actors]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
        assert not thread.is_alive()
    final = {id(f): _outcome(f) for f in futures}
    wait_until(lambda: len(called) == len(futures))
    assert set(map(id, called)) == set(final)
    assert seen == [final] * 4


def _shuffled(futures: list[iowq.Future[None]]) -> list[iowq.Future[None]]:
    return random.sample(futures, len(futures))


def _outcome(future: cf.Future[None]) -> str:
    try:
        return repr(future.result(DEADLINE))
    except cf.CancelledError:
        return "cancelled"
