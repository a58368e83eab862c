"""The queue as an executor: map, shutdown, and its views."""

from __future__ import annotations

import concurrent.futures as cf
import itertools
import os
import signal
import socket
import threading
import time
from typing import Any

import pytest

import iowq
from support import DEADLINE, Blocker, run_python, wait_until


def _fail_at(bad: int, number: int) -> int:
    if number == bad:
        raise LookupError(str(number))
    return number


# ---- construction


def test_it_is_made_like_a_thread_pool_executor() -> None:
    made: list[int] = []
    with iowq.WorkQueue(3, "pool", made.append, (7,)) as wq:
        assert wq.name == "pool"
        assert wq.submit(lambda: threading.current_thread().name).result().startswith("pool-")
        assert made == [7]
    with iowq.WorkQueue(max_workers=2, thread_name_prefix="other") as wq:
        assert wq.name == "other"
        assert wq.max_workers().concurrency == 2
    assert isinstance(wq, cf.Executor)
    with pytest.raises(TypeError, match="give one of them"):
        iowq.WorkQueue(2, max_workers=2)
    with pytest.raises(ValueError, match="max_workers must be greater than 0, not -1"):
        iowq.WorkQueue(max_workers=-1)


@pytest.mark.parametrize("option", ["unbounded", "max_pending"])
@pytest.mark.parametrize(("value", "error"), [(0, ValueError), ("1", TypeError), (-5, ValueError)])
def test_limits_are_checked(option: str, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=rf"{option} .*{value}"):
        iowq.WorkQueue(1, **{option: value})


# ---- map


@pytest.mark.parametrize("chunksize", [1, 3, 100])
@pytest.mark.parametrize("buffersize", [None, 1, 4])
def test_map(wq: iowq.WorkQueue, chunksize: int, buffersize: int | None) -> None:
    numbers = wq.map(pow, range(20), range(20), chunksize=chunksize, buffersize=buffersize)
    assert list(numbers) == list(map(pow, range(20), range(20)))
    assert list(wq.map(abs, [], chunksize=chunksize, buffersize=buffersize)) == []


@pytest.mark.parametrize("chunksize", [1, 4])
def test_map_gives_the_results_before_an_error(wq: iowq.WorkQueue, chunksize: int) -> None:
    numbers = wq.map(_fail_at, itertools.repeat(6), range(20), chunksize=chunksize)
    assert list(itertools.islice(numbers, 6)) == list(range(6))
    with pytest.raises(LookupError, match="6"):
        next(numbers)


def test_map_begins_at_once(wq: iowq.WorkQueue) -> None:
    called: list[int] = []
    wq.map(called.append, range(10))
    wq.flush()
    assert sorted(called) == list(range(10))


def test_map_with_a_buffersize_reads_ahead_no_further(wq: iowq.WorkQueue) -> None:
    read: list[int] = []

    def forever() -> Any:
        for number in itertools.count():
            read.append(number)
            yield number

    results = wq.map(abs, forever(), buffersize=5)
    assert read == [0, 1, 2, 3, 4]
    assert next(results) == 0
    assert read == [0, 1, 2, 3, 4, 5]
    assert list(itertools.islice(results, 100)) == list(range(1, 101))


@pytest.mark.parametrize("chunksize", [1, 2])
def test_map_cancels_the_rest_when_time_is_up(wq: iowq.WorkQueue, chunksize: int) -> None:
    """Also what runs."""
    results = wq.map(time.sleep, [0, 0, 60, 60, 60], timeout=0.2, chunksize=chunksize)
    with pytest.raises(cf.TimeoutError):
        list(results)
    wq.flush(timeout=DEADLINE)


def test_map_cancels_the_rest_when_it_is_closed(wq: iowq.WorkQueue) -> None:
    results: Any = wq.map(time.sleep, [0, 60, 60])
    next(results)
    results.close()
    wq.flush(timeout=DEADLINE)


def test_map_that_cannot_submit_all_cancels_the_rest(blocker: Blocker) -> None:
    ran: list[int] = []
    with iowq.WorkQueue(1, max_pending=3, full_timeout=0) as wq:
        wq.submit(blocker)
        blocker.wait_entered()
        with pytest.raises(iowq.WorkQueueFull):
            wq.map(ran.append, range(10))
        with pytest.raises(ZeroDivisionError):
            wq.map(ran.append, (1 // (2 - i) for i in range(3)))
        assert wq.stats().pending == 0
        blocker.release()
    assert not ran


@pytest.mark.parametrize("chunksize", [1, 2])
def test_map_that_fails_cancels_the_rest_at_once(wq: iowq.WorkQueue, chunksize: int) -> None:
    """Though the error, which keeps the frames that it came through, lives on."""

    def work(number: int) -> None:
        if not number:
            raise LookupError
        time.sleep(60)

    with pytest.raises(LookupError) as caught:
        list(wq.map(work, range(40), chunksize=chunksize))
    wq.flush(timeout=DEADLINE)
    assert caught.value is not None


@pytest.mark.parametrize("chunksize", [1, 2])
def test_map_within_a_time_limit(wq: iowq.WorkQueue, chunksize: int) -> None:
    with pytest.raises(TimeoutError, match="not done in"):
        list(wq.within(0.1).map(time.sleep, [60, 60], chunksize=chunksize))


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"chunksize": 0}, ValueError),
        ({"chunksize": 1.5}, TypeError),
        ({"buffersize": 0}, ValueError),
        ({"buffersize": "many"}, TypeError),
        ({"timeout": "soon"}, TypeError),
    ],
)
def test_map_checks_its_arguments(
    wq: iowq.WorkQueue, options: dict[str, Any], error: type[Exception]
) -> None:
    [name] = options
    with pytest.raises(error, match=rf"{name} must be"):
        wq.map(abs, [1], **options)


# ---- shutdown


def test_shutdown_without_waiting(wq: iowq.WorkQueue, blocker: Blocker) -> None:
    """What is pending still runs, and then the threads end by themselves."""
    futures = [wq.submit(blocker) for _ in range(20)]
    wq.shutdown(wait=False)
    with pytest.raises(RuntimeError, match="after shutdown"):
        wq.submit(int)
    assert not any(future.done() for future in futures)
    blocker.release()
    assert [future.result(DEADLINE) for future in futures] == [None] * 20
    wait_until(lambda: wq.stats().workers == 0)


def test_shutdown_cancels_what_is_pending_if_asked_to(blocker: Blocker) -> None:
    wq = iowq.WorkQueue(2)
    running = [wq.submit(blocker) for _ in range(2)]
    blocker.wait_entered(2)
    pending = [wq.submit(int) for _ in range(5)]
    wq.shutdown(wait=False, cancel_futures=True)
    assert all(future.cancelled() for future in pending)
    assert not any(future.done() for future in running)
    blocker.release()
    wq.shutdown()
    assert [future.result() for future in running] == [None, None]


def test_submit_during_shutdown(wq: iowq.WorkQueue, blocker: Blocker) -> None:
    """From a work and from a callback, with shutdown waiting."""
    errors: list[BaseException] = []

    def submit(_: object = None) -> None:
        try:
            wq.submit(int)
        except RuntimeError as error:
            errors.append(error)

    def work() -> None:
        blocker()
        submit()

    future = wq.submit(work)
    future.add_done_callback(submit)
    blocker.wait_entered()
    closer = threading.Thread(target=wq.shutdown)
    closer.start()
    wait_until(lambda: "closed" in repr(wq))
    blocker.release()
    closer.join(DEADLINE)
    assert not closer.is_alive()
    assert len(errors) == 2


def test_a_work_submits_and_waits(wq: iowq.WorkQueue) -> None:
    def count_down(number: int) -> int:
        return number and 1 + wq.submit(count_down, number - 1).result(DEADLINE)

    assert wq.submit(count_down, 5).result(DEADLINE) == 5


def test_threads_end_with_the_queue() -> None:
    wq = iowq.WorkQueue(2, name="short")
    future = wq.submit(int)
    assert future.result(DEADLINE) == 0
    del wq, future
    wait_until(lambda: not any(t.name.startswith("short-") for t in threading.enumerate()))


def test_ctrl_c_while_it_waits_cancels_what_runs() -> None:
    """ThreadPoolExecutor hangs until the work has ended by itself."""
    result = run_python(
        """
        import iowq, os, signal, threading, time
        with iowq.WorkQueue(2) as wq:
            wq.submit(time.sleep, 60)
            future = wq.submit(time.sleep, 60)
            threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
            future.result()
        """,
        timeout=20,
    )
    assert result.returncode == -signal.SIGINT or "KeyboardInterrupt" in result.stderr
    result = run_python(
        """
        import iowq, os, signal, threading, time
        with iowq.WorkQueue(2) as wq:
            wq.submit(time.sleep, 60)
            threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        """,
        timeout=20,
    )
    assert "KeyboardInterrupt" in result.stderr


def test_a_broken_queues_futures_raise_it(caplog: pytest.LogCaptureFixture) -> None:
    gate = threading.Event()

    def initializer() -> None:
        gate.wait(DEADLINE)
        raise LookupError("no database")

    wq = iowq.WorkQueue(1, initializer=initializer)
    future = wq.submit(int)
    gate.set()
    with pytest.raises(iowq.BrokenWorkQueue):
        future.result(DEADLINE)
    with pytest.raises(cf.BrokenExecutor):
        wq.submit(int)
    assert "no database" in caplog.text


# ---- views


def test_hashed(wq: iowq.WorkQueue) -> None:
    order: list[int] = []
    log = wq.hashed("log")
    futures = [log.submit(order.append, number) for number in range(500)]
    cf.wait(futures)
    assert order == list(range(500))
    with pytest.raises(TypeError, match="unhashable"):
        wq.hashed([])  # type: ignore[arg-type]


def test_hashed_and_enqueue_hashed_share_the_order(wq: iowq.WorkQueue, blocker: Blocker) -> None:
    order: list[str] = []
    wq.hashed("a").submit(blocker)
    wq.enqueue_hashed("a", order.append, "second")
    wq.hashed("a").enqueue(order.append, "third")
    wq.unbounded.hashed("a").submit(order.append, "fourth")
    blocker.release()
    wq.flush()
    assert order == ["second", "third", "fourth"]


def test_within(wq: iowq.WorkQueue) -> None:
    slow = wq.within(0.05)
    begun = time.monotonic()
    future = slow.submit(time.sleep, 60)
    with pytest.raises(TimeoutError, match=r"not done in 0\.05 s"):
        future.result(DEADLINE)
    assert time.monotonic() - begun < 10
    assert not future.cancelled()
    assert slow.submit(int, "3").result(DEADLINE) == 3


def test_within_takes_the_shortest(wq: iowq.WorkQueue) -> None:
    for narrow in (wq.within(60).within(0.05), wq.within(0.05).within(60)):
        with pytest.raises(TimeoutError):
            narrow.hashed("key").submit(time.sleep, 60).result(DEADLINE)


def test_uncancellable_work_has_no_time_limit(wq: iowq.WorkQueue) -> None:
    with pytest.raises(TypeError, match="can't have a time limit"):
        wq.within(1).uncancellable  # noqa: B018
    with pytest.raises(TypeError, match="can't have a time limit"):
        wq.uncancellable.within(1)


def test_within_ends_code_that_computes(wq: iowq.WorkQueue) -> None:
    def compute() -> None:
        while True:
            pass

    with pytest.raises(TimeoutError):
        wq.within(0.05).submit(compute).result(DEADLINE)


@pytest.mark.parametrize(("value", "error"), [("soon", TypeError), (float("nan"), ValueError)])
def test_within_checks_its_argument(wq: iowq.WorkQueue, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="seconds must be"):
        wq.within(value)


def test_unbounded_work_never_starves_bounded_work() -> None:
    """Nor the other way round."""
    pairs = [socket.socketpair() for _ in range(6)]
    with iowq.WorkQueue(2, unbounded=4) as wq:
        receivers = [wq.unbounded.submit(ours.recv, 1) for ours, _theirs in pairs]
        wait_until(lambda: sum(f.running() for f in receivers) == 4)
        assert list(wq.map(abs, range(-10, 0))) == list(range(10, 0, -1))
        blocked = [wq.submit(Blocker()) for _ in range(5)]
        wait_until(lambda: sum(f.running() for f in blocked) == 2)
        for _ours, theirs in pairs:
            theirs.send(b"x")
        assert [f.result(DEADLINE) for f in receivers] == [b"x"] * 6
        wq.cancel_all()
    for ends in pairs:
        for end in ends:
            end.close()


def test_limits_change_while_it_runs(blocker: Blocker) -> None:
    with iowq.WorkQueue(2, unbounded=1) as wq:
        futures = [wq.submit(blocker) for _ in range(6)]
        futures += [wq.unbounded.submit(blocker) for _ in range(6)]
        wait_until(lambda: sum(f.running() for f in futures) == 3)
        assert wq.max_workers(4, unbounded=3) == (2, 1)
        wait_until(lambda: sum(f.running() for f in futures) == 7)
        assert wq.max_workers() == (4, 3)
        assert wq.max_workers(concurrency=1) == (4, 3)
        blocker.release()
        cf.wait(futures)
        assert "concurrency 1" in repr(wq)
        again = Blocker()
        futures = [wq.submit(again) for _ in range(3)]
        again.wait_entered()
        assert sum(f.running() for f in futures) == 1
        again.release()
        with pytest.raises(ValueError, match="unbounded must be from 1"):
            wq.max_workers(1, 0)


def test_a_view_can_be_closed_by_itself(blocker: Blocker) -> None:
    with iowq.WorkQueue(1) as wq:
        wq.submit(blocker)
        other = wq.submit(int)
        with wq.hashed("key") as view:
            mine = view.submit(int)
            view.shutdown(wait=False, cancel_futures=True)
            assert mine.cancelled()
            assert not other.cancelled()
            with pytest.raises(RuntimeError, match="after shutdown"):
                view.submit(int)
            blocker.release()
        assert other.done()
        assert wq.submit(int).result(DEADLINE) == 0


def test_a_closed_view_closes_those_made_from_it(blocker: Blocker) -> None:
    with iowq.WorkQueue(1) as wq:
        wq.submit(blocker)
        outer = wq.unbounded.hashed("key")
        inner, chain = outer.within(60), wq.unbounded.chain()
        narrower = chain.within(60)
        outer.submit(blocker)
        pending = [outer.submit(int), inner.submit(int)]
        for view in (outer, chain):
            view.shutdown(wait=False, cancel_futures=True)
        assert all(future.cancelled() for future in pending)
        for view in (outer, inner, outer.within(1), chain, narrower, chain.within(1)):
            with pytest.raises(RuntimeError, match="after shutdown"):
                view.submit(int)
        blocker.release()
        view = wq.unbounded.hashed("key").within(60)
        for _ in range(2000):
            view = view.unbounded
        assert view.submit(int).result(DEADLINE) == 0


@pytest.mark.parametrize("where", ["inside", "at the end"])
def test_ctrl_c_at_a_view_cancels_what_came_in_there(where: str) -> None:
    result = run_python(
        f"""
        import iowq, os, signal, threading, time
        with iowq.WorkQueue(3) as wq:
            other = wq.submit(time.sleep, 1)
            try:
                with wq.hashed("key") as view:
                    mine = view.submit(time.sleep, 60)
                    narrower = view.within(60).submit(time.sleep, 60)
                    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
                    if {where == "inside"}:
                        mine.result()
            except KeyboardInterrupt:
                print("interrupted")
        print(mine.cancelled(), narrower.cancelled(), other.cancelled())
        """,
        timeout=20,
    )
    assert result.stdout.split() == ["interrupted", "True", "True", "False"], result


# ---- backpressure


def test_a_full_queue_raises(blocker: Blocker) -> None:
    with iowq.WorkQueue(1, max_pending=3, full_timeout=0) as wq:
        wq.submit(blocker)
        blocker.wait_entered()
        for _ in range(3):
            wq.enqueue_hashed("key", int)
        for enqueue in (wq.enqueue, wq.submit, wq.hashed("key").submit, wq.unbounded.submit):
            with pytest.raises(iowq.WorkQueueFull, match="3 works are pending"):
                enqueue(int)
        blocker.release()
        wq.flush()
        assert wq.submit(int).result(DEADLINE) == 0
        assert len(wq._keys) == 0


def test_a_full_queue_waits_and_then_raises(blocker: Blocker) -> None:
    with iowq.WorkQueue(1, max_pending=1, full_timeout=0.05) as wq:
        wq.submit(blocker)
        blocker.wait_entered()
        wq.submit(int)
        begun = time.monotonic()
        with pytest.raises(iowq.WorkQueueFull):
            wq.submit(int)
        assert time.monotonic() - begun >= 0.05
        blocker.release()


@pytest.mark.parametrize("forever", [float("inf"), 1e300])
def test_a_full_queue_may_wait_for_ever(blocker: Blocker, forever: float) -> None:
    with iowq.WorkQueue(1, max_pending=1, full_timeout=forever) as wq:
        wq.submit(blocker)
        blocker.wait_entered()
        wq.submit(int)
        threading.Timer(0.05, blocker.release).start()
        assert wq.submit(int, "9").result(DEADLINE) == 9


def test_a_work_that_gives_up_waiting_leaves_no_key(blocker: Blocker) -> None:
    with iowq.WorkQueue(1, max_pending=1) as wq, iowq.WorkQueue(1) as other:
        wq.submit(blocker)
        blocker.wait_entered()
        wq.submit(int)
        waiting = other.submit(wq.enqueue_hashed, "key", int)
        wait_until(lambda: wq._admission._waiters)
        waiting.cancel()
        with pytest.raises(cf.CancelledError):
            waiting.result(DEADLINE)
        assert len(wq._keys) == 0
        blocker.release()


def test_whoever_waits_for_room_comes_before_those_who_come_later() -> None:
    with iowq.WorkQueue(1, max_pending=1, full_timeout=0) as wq:
        assert wq.submit(int, "1").result(DEADLINE) == 1
        # it would take a work, and somebody has waited for that
        with wq._admission._waiting(lambda: True), pytest.raises(iowq.WorkQueueFull):
            wq.submit(int, "2")
        assert wq.submit(int, "3").result(DEADLINE) == 3


def test_room_is_given_in_the_order_of_arrival(blocker: Blocker) -> None:
    ran: list[int] = []
    with iowq.WorkQueue(1, max_pending=1) as wq:
        wq.submit(blocker)
        blocker.wait_entered()
        wq.submit(int)
        threads = []
        for number in range(20):
            threads.append(threading.Thread(target=wq.submit, args=(ran.append, number)))
            threads[-1].start()
            wait_until(lambda n=number: len(wq._admission._waiters) == n + 1)  # type: ignore[misc]
        blocker.release()
        for thread in threads:
            thread.join(DEADLINE)
    assert ran == list(range(20))


def test_cancel_makes_room(blocker: Blocker) -> None:
    with iowq.WorkQueue(1, max_pending=1) as wq:
        wq.submit(blocker)
        blocker.wait_entered()
        pending = wq.submit(int)
        later: list[iowq.Future[int]] = []
        thread = threading.Thread(target=lambda: later.append(wq.submit(int, "8")))
        thread.start()
        wait_until(lambda: wq._admission._waiters)
        assert pending.cancel()
        thread.join(DEADLINE)
        blocker.release()
        assert later[0].result(DEADLINE) == 8


def test_shutdown_tells_those_who_wait_for_room(blocker: Blocker) -> None:
    wq = iowq.WorkQueue(1, max_pending=1)
    wq.submit(blocker)
    blocker.wait_entered()
    wq.submit(int)
    errors: list[BaseException] = []

    def submit() -> None:
        try:
            wq.submit(int)
        except RuntimeError as error:
            errors.append(error)

    threads = [threading.Thread(target=submit) for _ in range(3)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(wq._admission._waiters) == 3)
    wq.shutdown(wait=False)
    for thread in threads:
        thread.join(DEADLINE)
    assert len(errors) == 3
    blocker.release()


def test_works_of_the_queue_are_not_held_up() -> None:
    """They would wait for themselves."""
    with iowq.WorkQueue(1, max_pending=1) as wq:
        futures = wq.submit(lambda: [wq.submit(int, n) for n in range(10)]).result(DEADLINE)
        assert [future.result(DEADLINE) for future in futures] == list(range(10))


def test_pending_work_stays_within_its_bound() -> None:
    """Many producers, faster than the workers: nothing lost, in order, and bounded."""
    most = [0]
    done: list[tuple[int, int]] = []

    def work(producer: int, number: int) -> None:
        most[0] = max(most[0], wq.stats().pending)
        done.append((producer, number))

    with iowq.WorkQueue(2, max_pending=5) as wq:

        def produce(producer: int) -> None:
            for number in range(400):
                wq.enqueue_hashed(producer, work, producer, number)

        threads = [threading.Thread(target=produce, args=(n,)) for n in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE)
            assert not thread.is_alive()
        wq.flush()
    assert 0 < most[0] <= 5
    assert len(done) == 6 * 400
    for producer in range(6):
        assert [n for p, n in done if p == producer] == list(range(400))


def test_ctrl_c_while_waiting_for_room(blocker: Blocker) -> None:
    with iowq.WorkQueue(1, max_pending=1) as wq:
        wq.submit(blocker)
        blocker.wait_entered()
        wq.submit(int)

        def interrupt(*_: object) -> None:
            raise InterruptedError("handler")

        def interrupt_the_wait() -> None:
            wait_until(lambda: wq._admission._waiters)
            os.kill(os.getpid(), signal.SIGUSR1)

        before = signal.signal(signal.SIGUSR1, interrupt)
        thread = threading.Thread(target=interrupt_the_wait)
        thread.start()
        with pytest.raises(InterruptedError, match="handler"):
            wq.submit(int)
        thread.join()
        signal.signal(signal.SIGUSR1, before)
        assert not wq._admission._waiters
        blocker.release()
        wq.flush()
        assert wq.submit(int).result(DEADLINE) == 0
