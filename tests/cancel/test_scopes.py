"""``shield`` and ``timeout``, and work that can't be cancelled."""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import threading
import time
from collections.abc import Callable, Generator

import pytest

import iowq
from support import DEADLINE, Blocker, wait_until


def _run(function: Callable[[], object]) -> None:
    """Runs function as a work; raises what it raises."""
    errors: list[BaseException] = []
    with iowq.WorkQueue(2, on_error=lambda _work, error: errors.append(error)) as wq:
        work = wq.enqueue(function)
    assert not work.cancelled()
    if errors:
        raise errors[0]


def _cancel_inside(function: Callable[[], object], inside: threading.Event) -> iowq.Work:
    """Runs function as a work, and cancels it when it says that it is inside."""
    with iowq.WorkQueue(1) as wq:
        running = wq.enqueue(function)
        assert inside.wait(10)
        wq.cancel(running)
        wq.flush(timeout=10)
    return running


def _loop() -> None:
    while True:
        pass


def _recv() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.recv(1)


ENDLESS = [_loop, _recv, threading.Event().wait, queue.Queue[int]().get, lambda: time.sleep(60)]

# ---- timeout


@pytest.mark.parametrize("endless", ENDLESS)
def test_timeout_ends_what_is_inside(endless: Callable[[], object]) -> None:
    def work() -> None:
        begun = time.monotonic()
        with pytest.raises(TimeoutError, match=r"not done in 0\.05 s"), iowq.timeout(0.05):
            endless()
        assert 0.05 <= time.monotonic() - begun < DEADLINE
        time.sleep(0.001)  # nothing is left over
        assert sum(range(100_000))

    _run(work)


def test_timeout_that_does_not_expire() -> None:
    def work() -> None:
        for _ in range(1000):
            with iowq.timeout(60):
                pass
        with iowq.timeout(0.05):
            pass
        time.sleep(0.1)
        with iowq.timeout(float("inf")), iowq.timeout(1e300):
            time.sleep(0.001)

    _run(work)


@pytest.mark.parametrize("endless", ENDLESS)
def test_timeouts_nest(endless: Callable[[], object]) -> None:
    seen: list[str] = []

    def work() -> None:
        try:
            with iowq.timeout(0.05):
                try:
                    with iowq.timeout(60):
                        endless()
                except TimeoutError:
                    seen.append("the inner one, which had time")
        except TimeoutError:
            seen.append("outer")
        with iowq.timeout(60):
            try:
                with iowq.timeout(0.05):
                    endless()
            except TimeoutError:
                seen.append("inner")

    _run(work)
    assert seen == ["outer", "inner"]


def test_an_error_of_the_body_is_its_own() -> None:
    def work() -> None:
        with iowq.timeout(60):
            raise KeyError("mine")

    with pytest.raises(KeyError):
        _run(work)


def test_time_that_is_up_already() -> None:
    def work() -> None:
        with pytest.raises(TimeoutError), iowq.timeout(0):
            time.sleep(60)

    _run(work)


def test_cancel_goes_before_timeout() -> None:
    """A cancelled work ends, whatever it does about a TimeoutError."""
    seen: list[BaseException] = []
    inside = threading.Event()

    def work() -> None:
        try:
            with iowq.timeout(60):
                inside.set()
                _loop()
        except BaseException as error:
            seen.append(error)
            raise

    running = _cancel_inside(work, inside)
    assert isinstance(seen[0], iowq.Cancelled)
    assert running.cancelled()


def test_cancel_and_timeout_at_once() -> None:
    """Whichever ends the call, a cancelled work counts as cancelled."""
    errors: list[BaseException] = []

    def work() -> None:
        while True:
            with contextlib.suppress(TimeoutError), iowq.timeout(0.001):
                time.sleep(60)

    with iowq.WorkQueue(2, on_error=lambda _work, error: errors.append(error)) as wq:
        for n in range(300):
            running = wq.enqueue(work)
            wait_until(running.running)
            time.sleep(n % 20 / 10_000)
            wq.cancel(running)
            wait_until(running.done)
            assert running.cancelled()
    assert not errors


def test_clean_up_after_a_timeout_may_block() -> None:
    cleaned: list[int] = []

    def work() -> None:
        with iowq.timeout(0.02):
            try:
                time.sleep(60)
            finally:
                time.sleep(0.1)
                cleaned.append(1)

    with pytest.raises(TimeoutError):
        _run(work)
    assert cleaned


def test_a_timeout_that_is_swallowed() -> None:
    def work() -> None:
        with iowq.timeout(0.02), contextlib.suppress(iowq.Cancelled):
            time.sleep(60)
        time.sleep(0.05)

    _run(work)


def test_many_timeouts_at_once() -> None:
    ended: list[int] = []

    def work(n: int) -> None:
        with contextlib.suppress(TimeoutError), iowq.timeout(0.01 + n / 1000):
            time.sleep(60)
        ended.append(n)

    with iowq.WorkQueue(32) as wq:
        for n in range(200):
            wq.enqueue(work, n % 20)
        wq.flush(timeout=30)
    assert len(ended) == 200


def test_timeouts_of_generators_end_in_any_order() -> None:
    def generator() -> Generator[None, None, None]:
        with iowq.timeout(60):
            yield

    def work() -> None:
        first = generator()
        next(first)
        with contextlib.suppress(TimeoutError), iowq.timeout(0.05):
            first.close()
            time.sleep(60)
        second = generator()
        with iowq.timeout(60):
            next(second)
        second.close()

    _run(work)


def test_a_timeout_that_is_left_open_is_its_own_works() -> None:
    left: list[Generator[None, None, None]] = []

    def generator() -> Generator[None, None, None]:
        with iowq.timeout(0.05):
            yield

    def leave() -> None:
        left.append(generator())
        next(left[0])

    def close() -> None:
        left.pop().close()
        time.sleep(0.1)
        with pytest.raises(TimeoutError), iowq.timeout(0.02):
            time.sleep(60)

    with iowq.WorkQueue(1) as wq:
        wq.enqueue(leave)
        wq.flush()
        errors: list[BaseException] = []

        def checked() -> None:
            try:
                close()
            except BaseException as error:
                errors.append(error)

        work = wq.enqueue(checked)
    assert not errors
    assert not work.cancelled()


def test_an_expired_timeout_is_no_cancel() -> None:
    errors: list[BaseException] = []

    def work() -> None:
        limit = iowq.timeout(0.01)
        limit.__enter__()
        time.sleep(60)

    with iowq.WorkQueue(1, on_error=lambda _work, error: errors.append(error)) as wq:
        running = wq.enqueue(work)
    assert not running.cancelled()
    assert isinstance(errors[0], iowq.Cancelled)


def test_a_timeout_is_entered_once() -> None:
    def work() -> None:
        limit = iowq.timeout(60)
        with limit, pytest.raises(RuntimeError, match="entered once at a time"), limit:
            pass
        with limit:
            pass

    _run(work)


def test_clean_up_after_checkpoint_may_block() -> None:
    cleaned: list[int] = []

    def work(entered: threading.Event) -> None:
        try:
            entered.set()
            while True:
                iowq.checkpoint()
        finally:
            time.sleep(0.05)
            cleaned.append(1)

    for policy in ("anywhere", "blocked"):
        with iowq.WorkQueue(1, interrupt=policy) as wq:
            entered = threading.Event()
            running = wq.enqueue(work, entered)
            wait_until(entered.is_set)
            wq.cancel(running)
            wq.flush(timeout=10)
        assert running.cancelled()
    assert len(cleaned) == 2


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*")
def test_timeout_in_a_child_that_a_work_has_forked() -> None:
    """It is no work there, but has timeouts. One that was entered before ends quietly."""

    def work() -> int:
        pid, code = -1, 1
        try:
            with iowq.timeout(60):
                pid = os.fork()
            if pid:
                return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            with pytest.raises(TimeoutError), iowq.timeout(0.05):
                time.sleep(60)
            code = 0
        finally:
            if pid == 0:
                os._exit(code)
        return code

    with iowq.WorkQueue(1) as wq:
        assert wq.submit(work).result(30) == 0


@pytest.mark.parametrize("seconds", ["1", None, True, float("nan")])
def test_bad_seconds(seconds: object) -> None:
    with pytest.raises((TypeError, ValueError), match="seconds must be a number of seconds, not"):
        iowq.timeout(seconds)  # type: ignore[arg-type]


# ---- shield


@pytest.mark.parametrize("last", [_loop, lambda: time.sleep(60), lambda: None])
def test_a_shield_holds_cancel_back(last: Callable[[], None]) -> None:
    steps: list[str] = []
    inside = threading.Event()

    def work() -> None:
        with iowq.shield():
            inside.set()
            while not iowq.cancel_requested():
                time.sleep(0.001)
            iowq.checkpoint()
            with contextlib.suppress(queue.Empty):
                queue.Queue[int]().get(timeout=0.05)
            time.sleep(0.05)
            steps.append("shielded")
        last()
        steps.append("after")

    running = _cancel_inside(work, inside)
    assert steps == ["shielded"]
    assert running.cancelled()


def test_shields_nest() -> None:
    steps: list[str] = []
    inside = threading.Event()

    def work() -> None:
        with iowq.shield():
            with iowq.shield():
                inside.set()
                wait_until(iowq.cancel_requested)
            time.sleep(0.05)
            steps.append("still shielded")
        steps.append("after")

    _cancel_inside(work, inside)
    assert steps == ["still shielded"]


def test_a_shield_holds_time_limits_back() -> None:
    steps: list[str] = []

    def work() -> None:
        with iowq.timeout(0.02):
            with iowq.shield():
                time.sleep(0.1)
                steps.append("shielded")
            time.sleep(60)

    with pytest.raises(TimeoutError):
        _run(work)
    assert steps == ["shielded"]


def test_a_shield_outside_of_a_work_does_nothing() -> None:
    with iowq.shield():
        time.sleep(0)


def test_a_shield_that_was_left_up_ends_with_its_work() -> None:
    with iowq.WorkQueue(1) as wq:
        wq.enqueue(iowq.shield().__enter__)
        work = wq.enqueue(_loop)
        wait_until(work.running)
        wq.cancel(work)
        wq.flush(timeout=10)
        assert work.cancelled()


# ---- interruptible


@pytest.mark.parametrize("endless", ENDLESS)
@pytest.mark.parametrize("uncancellable", [False, True])
def test_what_is_interruptible_in_a_work_that_is_not(
    endless: Callable[[], object], uncancellable: bool
) -> None:
    steps: list[str] = []

    def work() -> None:
        with contextlib.nullcontext() if uncancellable else iowq.shield():
            try:
                with iowq.interruptible():
                    steps.append("inside")
                    endless()
            except iowq.Cancelled:
                steps.append("cancelled")
            _sleep_shielded(steps)

    with iowq.WorkQueue(1) as wq:
        running = (wq.uncancellable if uncancellable else wq).enqueue(work)
        wait_until(lambda: bool(steps))
        wq.cancel(running)
        wq.flush(timeout=10)
    assert steps == ["inside", "cancelled", "not interrupted"]


def _sleep_shielded(steps: list[str]) -> None:
    time.sleep(0.02)
    threading.Event().wait(0.02)
    for _ in range(20_000):
        pass
    steps.append("not interrupted")


def test_shields_and_what_is_interruptible_nest() -> None:
    steps: list[str] = []
    inside = threading.Event()

    def work() -> None:
        with iowq.shield(), iowq.shield():
            try:
                with iowq.interruptible():
                    with iowq.shield():
                        inside.set()
                        wait_until(iowq.cancel_requested)
                        _sleep_shielded(steps)
                    steps.append("never")  # the inner shield's end raises
            except iowq.Cancelled:
                _sleep_shielded(steps)

    _cancel_inside(work, inside)
    assert steps == ["not interrupted"] * 2


def test_what_is_interruptible_does_not_begin_after_a_cancel(wq: iowq.WorkQueue) -> None:
    steps: list[str] = []
    inside = threading.Event()

    def work() -> None:
        inside.set()
        wait_until(iowq.cancel_requested)
        with pytest.raises(iowq.Cancelled), iowq.interruptible():
            steps.append("never")
        _sleep_shielded(steps)

    running = wq.uncancellable.enqueue(work)
    assert inside.wait(10)
    wq.cancel(running)
    wq.flush(timeout=10)
    assert steps == ["not interrupted"]


def test_interruptible_outside_of_a_work_does_nothing() -> None:
    with iowq.interruptible():
        time.sleep(0)


# ---- uncancellable


def test_uncancellable_work_is_never_interrupted() -> None:
    steps: list[bool] = []

    def work() -> None:
        wait_until(iowq.cancel_requested)
        time.sleep(0.1)
        threading.Event().wait(0.05)
        for _ in range(10_000):
            pass
        iowq.checkpoint()
        steps.append(iowq.cancel_requested())

    with iowq.WorkQueue(1) as wq:
        running = wq.uncancellable.enqueue(work)
        hashed = wq.uncancellable.enqueue_hashed("key", work)
        wait_until(running.running)
        assert wq.cancel(running) is iowq.Cancel.RUNNING
        assert wq.cancel(hashed) is iowq.Cancel.OK
        wq.flush(timeout=10)
        assert steps == [True]
        assert running.done()
        assert not running.cancelled()
        assert hashed.cancelled()


def test_uncancellable_is_checked_like_enqueue() -> None:
    with iowq.WorkQueue(1) as wq:
        with pytest.raises(TypeError, match="fn must be callable"):
            wq.uncancellable.enqueue(1)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="unhashable"):
            wq.uncancellable.enqueue_hashed([], int)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="after shutdown"):
        wq.uncancellable.enqueue(int)


# ---- cancel_if


def test_cancel_if(blocker: Blocker) -> None:
    with iowq.WorkQueue(2) as wq:
        running = wq.enqueue(threading.Event().wait)
        wq.enqueue(blocker)
        blocker.wait_entered()
        pending = [wq.enqueue_hashed(n % 3, int) for n in range(100)]
        chosen = {running, *pending[::2]}
        assert wq.cancel_if(lambda _work: False) is iowq.Cancel.NOTFOUND
        with pytest.raises(ZeroDivisionError):
            wq.cancel_if(lambda _work: 1 / 0)
        with pytest.raises(TypeError, match="predicate must be callable"):
            wq.cancel_if(1)  # type: ignore[arg-type]
        assert not any(work.cancelled() for work in pending)
        assert wq.cancel_if(chosen.__contains__) is iowq.Cancel.OK
        wait_until(running.cancelled)
        blocker.release()
        wq.flush(timeout=10)
        assert [work.cancelled() for work in pending] == [True, False] * 50


def test_cancel_if_may_use_the_queue(blocker: Blocker) -> None:
    """The predicate isn't called under a lock."""
    with iowq.WorkQueue(1) as wq:
        wq.enqueue(blocker)
        blocker.wait_entered()
        wq.enqueue(int)

        def predicate(_work: iowq.Work) -> bool:
            wq.enqueue(int)
            return wq.stats().pending > 0

        assert wq.cancel_if(predicate) is iowq.Cancel.OK
        blocker.release()


# ---- what one may see


def test_workers_and_dump(capsys: pytest.CaptureFixture[str]) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
        iowq.WorkQueue(4, name="seen") as wq,
    ):
        work = wq.enqueue(client.recv, 1)
        event = threading.Event()
        waiting = wq.uncancellable.enqueue(event.wait)
        port = server.getsockname()[1]
        expected = f"recvfrom(fd={client.fileno()} -> socket 127.0.0.1:{port})"
        wait_until(waiting.running)
        wait_until(lambda: expected in [worker.blocked_in for worker in wq.workers()])
        wait_until(lambda: all(worker.blocked_in for worker in wq.workers() if worker.work))
        workers = {worker.work: worker for worker in wq.workers()}
        assert set(workers) >= {work, waiting}
        assert workers[waiting].blocked_in == "a wait for a lock (futex)"
        assert workers[waiting].shielded
        assert 0 <= (workers[work].seconds or 0) < 30
        assert not workers[work].cancelling
        iowq.dump()
        text = capsys.readouterr().err
        assert expected in text
        assert "'seen'" in text
        assert "in wait" in text
        event.set()
        wq.cancel(work)
        wq.flush(timeout=10)
        assert all(worker.work is None for worker in wq.workers())
        assert "idle" in str(wq.workers()[0])


def test_dump_of_what_cannot_be_shown(capsys: pytest.CaptureFixture[str]) -> None:
    class Mute(Blocker):
        def __repr__(self) -> str:
            raise ZeroDivisionError

        __bool__ = __repr__

    class MuteQueue(iowq.WorkQueue):
        __repr__ = Mute.__repr__

    mute = Mute()
    with MuteQueue(2) as wq:
        works = [wq.enqueue(mute), wq.within(60).enqueue(mute)]
        mute.wait_entered(2)
        iowq.dump()
        mute.release()
    text = capsys.readouterr().err
    assert "Mute object at 0x" in text
    assert "TimeLimit object at 0x" in text
    assert "MuteQueue object at 0x" in text
    assert all(f"at {id(work):#x}>" in text for work in works)


def test_a_generators_shield_is_its_own_works(wq: iowq.WorkQueue) -> None:
    opened: list[Generator[None, None, None]] = []
    entered, gate = threading.Event(), threading.Event()
    shielded: list[bool] = []

    def generator() -> Generator[None, None, None]:
        with iowq.shield():
            yield

    def opens() -> None:
        opened.append(generator())
        next(opened[0])

    def closes() -> None:
        with iowq.shield():
            opened[0].close()
            entered.set()
            shielded.append(gate.wait(20))

    wq.submit(opens).result(20)
    work = wq.submit(closes)
    assert entered.wait(20)
    wq.cancel(work)
    gate.set()
    wq.flush(timeout=20)
    assert shielded == [True]
    assert work.cancelled()


def test_a_shield_may_be_shared(wq: iowq.WorkQueue, blocker: Blocker) -> None:
    shield = iowq.shield()

    def block() -> None:
        with shield, shield:
            blocker()

    works = [wq.enqueue(block) for _ in range(2)]
    blocker.wait_entered(2)
    wq.cancel_all()
    blocker.release()
    wq.flush(timeout=20)
    assert all(work.cancelled() for work in works)
    assert not shield._entered
