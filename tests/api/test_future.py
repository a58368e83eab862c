"""Futures: what their owner may rely on."""

from __future__ import annotations

import concurrent.futures as cf
import copy
import functools
import gc
import logging
import os
import pickle
import random
import signal
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

import iowq
from support import DEADLINE, FREE_THREADED, Blocker, is_gone, run_python, wait_until


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
    """False, as a rule: it might finish all the same. What became of it, the future tells."""
    called: list[object] = []
    reader, writer = os.pipe()
    future = wq.submit(os.read, reader, 1)
    future.add_done_callback(called.append)
    wait_until(future.running)
    if future.cancel():
        assert future.cancelled()  # it had been ended before it was asked
    with pytest.raises(cf.CancelledError):
        future.result(DEADLINE)
    assert future.cancelled()
    assert future.cancel()
    wait_until(lambda: called == [future])  # after who waits has been told
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
        except iowq.Cancelled:
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


def test_each_callback_is_called_once_though_its_error_cannot_be_logged(
    monkeypatch: pytest.MonkeyPatch, blocker: Blocker
) -> None:
    """Nor is it raised by a later cancel, of whatever queue, on the main thread."""
    unraisable: list[str] = []
    called: list[str] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda r: unraisable.append(str(r.exc_value)))

    def emit(_record: object) -> None:
        raise ConnectionError("no log server")

    def callback(_: object) -> None:
        called.append("first")
        raise ValueError

    handler = logging.Handler()
    handler.emit = emit  # type: ignore[method-assign, assignment]
    logger = logging.getLogger("concurrent.futures")
    logger.addHandler(handler)
    try:
        with iowq.WorkQueue(1) as wq:
            future = wq.submit(blocker)
            future.add_done_callback(callback)
            future.add_done_callback(lambda _: called.append("second"))
            blocker.release()
            wait_until(lambda: "second" in called)
    finally:
        logger.removeHandler(handler)
    assert (called, unraisable) == (["first", "second"], ["no log server"])
    with iowq.WorkQueue(1) as wq:
        wq.cancel(wq.submit(int))


def test_exit_waits_for_the_callbacks_of_a_queue_that_nobody_has() -> None:
    result = run_python("""
        import iowq, threading
        entered, gate = threading.Event(), threading.Event()
        def callback(_):
            entered.set()
            gate.wait(10)
            print("called")
        iowq.WorkQueue(2).submit(gate.wait, 0.1).add_done_callback(callback)
        assert entered.wait(10)
        threading.Timer(0.2, gate.set).start()
    """)
    assert result.stdout == "called\n", result


def test_ctrl_c_loses_no_callback_and_calls_none_twice(blocker: Blocker) -> None:
    class CtrlC(BaseException):
        pass

    armed = False

    def handler(*_: object) -> None:
        if armed:
            raise CtrlC

    interrupts = 0
    before = signal.signal(signal.SIGALRM, handler)
    try:
        with iowq.WorkQueue(1) as wq:
            wq.submit(blocker)
            for _ in range(5000):
                called: list[object] = []
                future = wq.submit(int)
                for _ in range(10):
                    future.add_done_callback(called.append)
                signal.setitimer(signal.ITIMER_REAL, random.uniform(2e-6, 3e-5))
                try:
                    armed = True
                    future.cancel()
                    armed = False
                except CtrlC:
                    interrupts += 1
                armed = False
                signal.setitimer(signal.ITIMER_REAL, 0)
                future.cancel()  # unless the first was interrupted before
                assert future.cancelled()
                assert len(called) == 10
            blocker.release()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert interrupts


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
        wait_until(lambda: is_gone(future_gone))
        wait_until(lambda: is_gone(gone))
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


# ---- what else may be done with it


def test_futures_are_not_copied(wq: iowq.WorkQueue) -> None:
    future = wq.submit(int)
    for make in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="cannot copy or pickle <Future"):
            make(future)


def test_private_names_are_those_of_the_base_class(wq: iowq.WorkQueue, blocker: Blocker) -> None:
    """asyncio reads them from 3.14 on, of failed futures as well."""
    running, failed = wq.submit(blocker), wq.submit(fail, ValueError("x"))
    error = failed.exception(DEADLINE)
    assert (failed._result, failed._exception, failed._state) == (None, error, "FINISHED")
    assert (running._result, running._exception) == (None, None)
    assert not hasattr(running, "_other")
    blocker.release()


def test_an_error_that_hides_its_class(wq: iowq.WorkQueue) -> None:
    class HiddenError(Exception):
        @property  # type: ignore[misc]
        def __class__(self) -> Any:
            raise ZeroDivisionError

    error = HiddenError()
    assert wq.submit(fail, error).exception(DEADLINE) is error


@pytest.mark.skipif(FREE_THREADED, reason="the interpreter decides where destructors run")
def test_cancel_does_not_reach_the_end_of_the_work_before() -> None:
    """A result's destructor runs on the worker."""
    reader, writer = os.pipe()
    read: list[bytes] = []
    gate, ending = Blocker(), threading.Event()

    class Result:
        def __del__(self) -> None:
            ending.set()
            read.append(os.read(reader, 1))

    def first() -> Result:
        gate()
        return Result()

    with iowq.WorkQueue(1) as wq:
        wq.submit(first)
        ran: list[int] = []
        following = wq.submit(ran.append, 1)
        gate.release()
        assert ending.wait(DEADLINE)
        following.cancel()
        wq.cancel_all()
        time.sleep(0.05)
        assert not read
        os.write(writer, b"x")
        wait_until(lambda: read == [b"x"])
        assert following.cancelled()
        assert not ran
    os.close(reader)
    os.close(writer)


def test_interruptions_of_the_main_thread_stay_there(blocker: Blocker) -> None:
    """What its handlers raise while futures end is raised by its own call."""

    class CtrlC(BaseException):
        pass

    other_wq = iowq.WorkQueue(1)
    errors: list[BaseException] = []
    cancelled = threading.Event()

    def cancel_another() -> None:
        try:
            other_wq.cancel(other_wq.submit(int))
        except BaseException as error:
            errors.append(error)
        cancelled.set()

    def interrupted(_: object) -> None:
        if not cancelled.is_set():
            raise CtrlC

    def wait_for_another(_: object) -> None:
        threading.Thread(target=cancel_another).start()
        assert cancelled.wait(DEADLINE)

    with iowq.WorkQueue(1) as wq:
        wq.submit(blocker)
        first, second = wq.submit(int), wq.submit(int)
        first.add_done_callback(interrupted)
        second.add_done_callback(wait_for_another)
        first.add_done_callback(lambda _: second.cancel())
        with pytest.raises(CtrlC):
            first.cancel()
        assert first.cancelled()
        blocker.release()
    assert not errors
    other_wq.close()


@pytest.mark.parametrize("closed", [False, True])
def test_in_a_forked_child_what_stayed_in_the_parent_is_cancelled(closed: bool) -> None:
    result = run_python(f"""
        import concurrent.futures as cf, iowq, os, signal, threading
        wq = iowq.WorkQueue(1)
        gate = threading.Event()
        entered = threading.Event()
        running = wq.submit(lambda: (entered.set(), gate.wait()))
        waited = wq.submit(int)
        shared = waited._condition
        pending = wq.submit(int)
        entered.wait()
        if {closed}:
            wq.shutdown(wait=False)
        child = os.fork()
        if not child:
            signal.alarm(20)
            called = []
            for future in (running, waited, pending):
                future.add_done_callback(called.append)
                assert future.cancelled() and not future.running(), future
                try:
                    future.result()
                except cf.CancelledError:
                    pass
            assert len(cf.wait([running, waited, pending]).done) == len(called) == 3
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        gate.set()
        assert pending.result(10) == waited.result(10) == 0
        print("ok")
    """)
    assert result.stdout == "ok\n", result.stderr


@pytest.mark.parametrize("of_python", [True, False])
def test_a_callback_that_exits_is_called_once(blocker: Blocker, of_python: bool) -> None:
    called: list[str] = []

    def leave(name: str, _future: cf.Future[Any] | None = None) -> None:
        called.append(name)
        raise SystemExit(3)

    with iowq.WorkQueue(1) as wq:
        wq.submit(blocker)
        blocker.wait_entered()
        future = wq.submit(int)
        future.add_done_callback(
            (lambda _: leave("first")) if of_python else functools.partial(leave, "first")
        )
        future.add_done_callback(lambda _: called.append("second"))
        with pytest.raises(SystemExit):
            future.cancel()
        blocker.release()
    assert called == ["first", "second"]


def test_a_result_may_wait_for_other_work_as_it_dies() -> None:
    """Nobody has the future any more: the queue is the last to let go of it."""
    gate, waited_for = Blocker(), threading.Event()
    seen: list[bool] = []

    class Result:
        def __del__(self) -> None:
            seen.append(waited_for.wait(DEADLINE / 2))

    def work() -> Result:
        gate()
        return Result()

    with iowq.WorkQueue(2) as wq:
        wq.submit(work)
        wq.submit(waited_for.set)
        gate.release()
    assert seen == [True]
