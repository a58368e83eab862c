"""cancel and cancel_all: the three answers, and what becomes of the work."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time

import iowq
from iowq._diagnose.demo import BlockedRead
from support import Blocker, wait_until


def test_pending_work_never_runs(blocker: Blocker) -> None:
    ran: list[int] = []
    with iowq.WorkQueue(1) as wq:
        wq.enqueue(blocker)
        works = [wq.enqueue_hashed(n % 3, ran.append, n) for n in range(30)]
        for work in works[::2]:
            assert wq.cancel(work) is iowq.Cancel.OK
            assert work.cancelled()
            assert work.done()
            assert wq.cancel(work) is iowq.Cancel.NOTFOUND
        blocker.release()
        wq.flush()
        assert sorted(ran) == list(range(1, 30, 2))
        assert not any(work.cancelled() for work in works[1::2])


def test_blocked_system_call_is_interrupted() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, iowq.WorkQueue(1) as wq:
        for _ in range(100):
            read = BlockedRead(ours)
            work = wq.enqueue(read)
            read.wait_until_blocked()
            assert wq.cancel(work) is iowq.Cancel.RUNNING
            wq.flush(timeout=10)
            assert read.is_ended
            assert work.done()
            assert work.cancelled()
            assert wq.cancel(work) is iowq.Cancel.NOTFOUND
        assert wq.stats().workers == 1


def test_cancel_before_the_call_is_entered_is_not_lost() -> None:
    """Signals that come too early are repeated."""
    ours, theirs = socket.socketpair()
    with ours, theirs, iowq.WorkQueue(1) as wq:
        for _ in range(300):
            read = BlockedRead(ours)
            work = wq.enqueue(read)
            wait_until(read.entered)
            assert wq.cancel(work) is iowq.Cancel.RUNNING
            wq.flush(timeout=10)
            assert read.is_ended


def test_code_that_swallows_the_error_goes_on_if_only_calls_are_ended() -> None:
    """It has the grace period for itself, then its next call is ended."""
    ours, theirs = socket.socketpair()
    ended: list[float] = []

    def receive() -> bytes:
        for _ in range(2):
            try:
                ours.recv(10)
            except iowq.Cancelled:
                ended.append(time.monotonic())
        theirs.send(b"data")
        return ours.recv(10)

    with ours, theirs, iowq.WorkQueue(1, interrupt="blocked") as wq:
        work = wq.enqueue(receive)
        wait_until(work.running)
        begun = time.monotonic()
        assert wq.cancel(work) is iowq.Cancel.RUNNING
        wq.flush(timeout=20)
    assert len(ended) == 2
    assert ended[1] - begun > 0.9
    assert work.done()
    assert not work.cancelled()


def test_clean_up_may_block(wq: iowq.WorkQueue) -> None:
    """Cancel ends the call, not the calls of `finally`."""
    ours, theirs = socket.socketpair()
    entered = threading.Event()
    cleaned: list[str] = []

    def receive() -> None:
        try:
            entered.set()
            ours.recv(1)
        finally:
            time.sleep(0.1)
            cleaned.append("up")

    with ours, theirs:
        work = wq.enqueue(receive)
        wait_until(entered.is_set)
        wq.cancel(work)
        wq.flush(timeout=10)
    assert cleaned == ["up"]
    assert work.cancelled()


def test_cancel_all_reaches_pending_and_running() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, iowq.WorkQueue(16) as wq:
        reads = [BlockedRead(ours) for _ in range(16)]
        for read in reads:
            wq.enqueue(read)
        for read in reads:
            read.wait_until_blocked()
        pending = [wq.enqueue_hashed(n % 7, int) for n in range(1000)]
        wq.cancel_all()
        wq.flush(timeout=10)
        assert all(read.is_ended for read in reads)
        assert all(work.cancelled() for work in pending)
        after = wq.enqueue(int)
        wq.flush()
        assert not after.cancelled()


def test_another_queues_work_is_not_found(wq: iowq.WorkQueue, blocker: Blocker) -> None:
    with iowq.WorkQueue(1) as other:
        running = wq.enqueue(blocker)
        blocker.wait_entered()
        assert other.cancel(running) is iowq.Cancel.NOTFOUND
        blocker.release()


def test_a_work_may_cancel_itself_and_all(wq: iowq.WorkQueue) -> None:
    answers: list[iowq.Cancel] = []
    mine: list[iowq.Work] = []
    ready = threading.Event()

    def suicide() -> None:
        assert ready.wait(10)
        answers.append(wq.cancel(mine[0]))
        wq.cancel_all()

    mine.append(wq.enqueue(suicide))
    ready.set()
    wq.flush(timeout=10)
    assert answers == [iowq.Cancel.RUNNING]


def test_cancelled_work_lets_go_of_its_arguments(blocker: Blocker) -> None:
    """Also on the thread that cancels, where __del__ may use the queue."""
    with iowq.WorkQueue(1) as wq:
        ended: list[iowq.Work] = []

        class Argument:
            def __del__(self) -> None:
                ended.append(wq.enqueue(int))

        wq.enqueue(blocker)
        work = wq.enqueue(id, Argument())
        wq.cancel(work)
        assert len(ended) == 1
        blocker.release()


def test_cancel_races_with_the_work() -> None:
    """Both outcomes are valid, never a third, and none twice."""
    ran: list[int] = []
    with iowq.WorkQueue(4) as wq:
        works = [wq.enqueue_hashed(n % 8, ran.append, n) for n in range(20_000)]
        answers = [wq.cancel(work) for work in works]
        wq.flush()
    assert len(ran) == len(set(ran))
    not_run = set(range(20_000)) - set(ran)
    assert not_run == {n for n, work in enumerate(works) if work.cancelled()}
    assert not_run >= {n for n, answer in enumerate(answers) if answer is iowq.Cancel.OK}
    # without a GIL a worker may have begun with it, and not have called it yet
    assert not any(answers[n] is iowq.Cancel.NOTFOUND for n in not_run)


def test_the_signal_can_be_chosen() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, iowq.WorkQueue(1, cancel_signal=signal.SIGRTMIN + 5) as wq:
        assert wq.cancel_signal == signal.SIGRTMIN + 5
        read = BlockedRead(ours)
        wq.enqueue(read)
        read.wait_until_blocked()
        wq.cancel_all()
        wq.flush(timeout=10)
        assert read.is_ended


def test_the_users_handler_still_gets_its_signals() -> None:
    number = signal.SIGRTMIN + 6
    seen: list[int] = []
    signal.signal(number, lambda *_: seen.append(1))
    with iowq.WorkQueue(1, cancel_signal=number) as wq:
        wq.enqueue(int)
        os.kill(os.getpid(), number)
        wait_until(lambda: seen)


def test_cancel_from_a_signal_handler(blocker: Blocker) -> None:
    with iowq.WorkQueue(1) as wq:
        wq.enqueue(blocker)
        pending = wq.enqueue(int)
        before = signal.signal(signal.SIGUSR1, lambda *_: wq.cancel_all())
        try:
            signal.raise_signal(signal.SIGUSR1)
            wait_until(pending.cancelled)
        finally:
            signal.signal(signal.SIGUSR1, before)
        blocker.release()


def test_checkpoint_ends_work_that_computes(wq: iowq.WorkQueue) -> None:
    steps: list[bool] = []

    def compute() -> None:
        try:
            while True:
                steps.append(iowq.cancel_requested())
                iowq.checkpoint()
        except Exception:
            steps.clear()

    work = wq.enqueue(compute)
    wait_until(lambda: steps)
    assert wq.cancel(work) is iowq.Cancel.RUNNING
    wq.flush(timeout=10)
    assert work.cancelled()
    assert steps[0] is False


def test_cancelled_without_a_cancel_is_an_error() -> None:
    errors: list[BaseException] = []

    def fail() -> None:
        raise iowq.Cancelled

    with iowq.WorkQueue(1, on_error=lambda _work, error: errors.append(error)) as wq:
        work = wq.enqueue(fail)
    assert isinstance(errors[0], iowq.Cancelled)
    assert not work.cancelled()


def test_current_work() -> None:
    seen: list[iowq.Work | None] = []
    with iowq.WorkQueue(1) as wq:
        work = wq.enqueue(lambda: seen.append(iowq.current_work()))
    assert seen == [work]
    assert iowq.current_work() is None
    assert not iowq.cancel_requested()
    iowq.checkpoint()


def test_cancel_key(blocker: Blocker) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, iowq.WorkQueue(4) as wq:
        running = BlockedRead(ours)
        works = [wq.enqueue_hashed("a", running), wq.enqueue_hashed("a", int)]
        other = wq.enqueue_hashed("b", blocker)
        behind = wq.enqueue_hashed("b", int)
        running.wait_until_blocked()
        assert wq.cancel_key("no such key") is iowq.Cancel.NOTFOUND
        assert wq.cancel_key("a") is iowq.Cancel.OK
        wait_until(lambda: all(work.cancelled() for work in works))
        assert other.running()
        assert behind.pending()
        assert wq.cancel_key("a") is iowq.Cancel.NOTFOUND
        blocker.release()
        wq.flush()
        assert behind.done()
        assert not behind.cancelled()
