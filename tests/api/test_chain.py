"""Linked work: in order, and none after one that failed or was cancelled."""

from __future__ import annotations

import concurrent.futures as cf
import gc
import random
import signal
import threading
import weakref
from typing import Any

import pytest

import iowq
from support import DEADLINE, Blocker, is_gone, wait_until


def _fail() -> None:
    raise LookupError("no such row")


def test_links_run_in_order(wq: iowq.WorkQueue) -> None:
    order: list[int] = []
    chain = wq.chain()
    futures = [chain.submit(order.append, number) for number in range(500)]
    cf.wait(futures)
    assert order == list(range(500))
    assert not chain._links.unfinished


def test_other_work_does_not_wait_for_a_chain(wq: iowq.WorkQueue, blocker: Blocker) -> None:
    wq.chain().submit(blocker)
    blocker.wait_entered()
    assert wq.submit(int).result(DEADLINE) == 0
    assert wq.chain().submit(int).result(DEADLINE) == 0
    blocker.release()


def test_a_failed_link_cancels_the_rest(wq: iowq.WorkQueue, blocker: Blocker) -> None:
    chain = wq.chain()
    first, bad = chain.submit(blocker), chain.submit(_fail)
    rest = [chain.submit(int) for _ in range(3000)]
    blocker.release()
    assert first.result(DEADLINE) is None
    with pytest.raises(LookupError):
        bad.result(DEADLINE)
    for future in rest:
        with pytest.raises(cf.CancelledError, match="failed: LookupError: no such row") as e:
            future.result(DEADLINE)
        assert e.value.__cause__ is bad.exception()
        assert future.cancelled()
    with pytest.raises(cf.CancelledError, match="no such row"):
        chain.submit(int).exception(DEADLINE)


def test_a_cancelled_link_cancels_those_behind_it_at_once(
    wq: iowq.WorkQueue, blocker: Blocker
) -> None:
    chain = wq.chain()
    first, second, third, fourth = (chain.submit(fn) for fn in (blocker, int, int, int))
    blocker.wait_entered()
    assert third.cancel()
    assert fourth.cancelled()
    with pytest.raises(cf.CancelledError, match="int'>, before it in its chain, was cancelled"):
        fourth.result()
    assert not second.done()
    blocker.release()
    assert first.result(DEADLINE) is None
    assert second.result(DEADLINE) == 0


def test_the_reason_tells_the_error_and_not_its_notes(wq: iowq.WorkQueue) -> None:
    def fail() -> None:
        error = LookupError("no such row")
        error.__notes__ = ["in table 17"]  # type: ignore[attr-defined]  # from 3.11 on
        raise error

    chain = wq.chain()
    chain.submit(fail)
    with pytest.raises(cf.CancelledError, match=r"fail at .* failed: LookupError: no such row$"):
        chain.submit(int).result(DEADLINE)


def test_cancel_of_the_running_link_cancels_the_rest(wq: iowq.WorkQueue, blocker: Blocker) -> None:
    chain = wq.chain()
    running, rest = chain.submit(blocker), chain.submit(int)
    blocker.wait_entered()
    running.cancel()
    with pytest.raises(cf.CancelledError, match="was cancelled"):
        rest.result(DEADLINE)
    wait_until(running.cancelled)


def test_chains_combine_with_other_properties(wq: iowq.WorkQueue) -> None:
    chain = wq.unbounded.within(60).chain()
    slow = chain.within(0.05).submit(threading.Event().wait)
    rest = chain.submit(int)
    with pytest.raises(TimeoutError):
        slow.result(DEADLINE)
    with pytest.raises(cf.CancelledError, match="not done in"):
        rest.result(DEADLINE)


def test_what_a_chain_can_not_do(wq: iowq.WorkQueue) -> None:
    chain = wq.chain()
    for call in (chain.enqueue, lambda fn: chain.enqueue_hashed(1, fn), chain.hashed):
        with pytest.raises(TypeError, match="chain"):
            call(int)
    with pytest.raises(TypeError, match="fn must be callable"):
        chain.submit(3)  # type: ignore[arg-type]
    assert chain.submit(int).result(DEADLINE) == 0


def test_a_link_that_a_full_queue_refuses_breaks_nothing(blocker: Blocker) -> None:
    with iowq.WorkQueue(1, max_pending=1, full_timeout=0) as wq:
        chain = wq.chain()
        futures = [chain.submit(blocker), *[]]
        blocker.wait_entered()
        futures.append(chain.submit(int))  # type: ignore[arg-type]
        with pytest.raises(iowq.WorkQueueFull):
            chain.submit(int)
        blocker.release()
        wq.flush()
        assert chain.submit(int, "4").result(DEADLINE) == 4


def test_producers_of_a_chain_wait_for_room_without_holding_up_its_links() -> None:
    with iowq.WorkQueue(1, max_pending=2) as wq:
        chain = wq.chain()
        order: list[int] = []

        def produce() -> None:
            for number in range(200):
                chain.submit(order.append, number)

        threads = [threading.Thread(target=produce) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE)
            assert not thread.is_alive()
        wq.flush()
        assert sorted(order) == sorted(3 * list(range(200)))


def test_links_meet_cancels_at_any_instant(wq: iowq.WorkQueue) -> None:
    """The links that ran are those before the first that did not end well."""
    for _ in range(150):
        chain = wq.chain()
        ran: list[int] = []
        links: list[Any] = [chain.submit(ran.append, number) for number in range(20)]
        victim = random.choice(links)
        victim.cancel()
        cf.wait(links, DEADLINE)
        good = [link.done() and not link.cancelled() for link in links]
        assert good == sorted(good, reverse=True)
        wait_until(lambda ran=ran, good=good: len(ran) >= sum(good))  # type: ignore[misc]
        assert ran == list(range(sum(good)))


def test_a_chain_has_one_key(wq: iowq.WorkQueue) -> None:
    for view in (wq.hashed("key"), wq.chain()):
        with pytest.raises(TypeError, match="a chain has a key of its own"):
            view.chain()


def test_an_interrupted_submit_breaks_nothing(wq: iowq.WorkQueue) -> None:
    """A signal's handler raises at any instruction: no link is lost, and no worker."""

    class AlarmError(BaseException):
        pass

    armed = False

    def ring(*_: object) -> None:
        if armed:
            raise AlarmError

    before = signal.signal(signal.SIGALRM, ring)
    rang = 0
    for _ in range(300):
        chain = wq.chain()
        links: list[iowq.Future[int]] = []
        try:
            armed = True
            signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-6, 3e-4))
            for _ in range(40):
                links.append(chain.submit(int))  # noqa: PERF401 - what came before an error counts
        except AlarmError:
            rang += 1
        finally:
            armed = False
            signal.setitimer(signal.ITIMER_REAL, 0)
        assert [link.result(DEADLINE) for link in links] == [0] * len(links)
        wq.flush(DEADLINE)
        assert not chain._links.unfinished
    signal.signal(signal.SIGALRM, before)
    assert rang


def test_links_cancelled_from_the_end_on(wq: iowq.WorkQueue, blocker: Blocker) -> None:
    chain = wq.chain()
    first = chain.submit(blocker)
    links = [chain.submit(int) for _ in range(1000)]
    for link in links[::-2]:
        assert link.cancel()
    assert all(link.cancelled() for link in links[1:])
    assert len(chain._links._breaks) == 1
    blocker.release()
    assert first.result(DEADLINE) is None
    assert links[0].result(DEADLINE) == 0


def test_each_call_of_map_is_a_link(wq: iowq.WorkQueue) -> None:
    called: list[int] = []

    def call(number: int) -> int:
        called.append(number)
        return 1 // (number - 1)

    results = wq.chain().map(call, range(8), chunksize=4)
    assert next(results) == -1
    with pytest.raises(ZeroDivisionError):
        next(results)
    wq.flush(timeout=DEADLINE)
    assert called == [0, 1]
    with pytest.raises(ValueError, match="chunksize"):
        wq.chain().map(call, range(8), chunksize=0)


def test_an_error_that_cannot_be_shown_breaks_the_chain(
    wq: iowq.WorkQueue, blocker: Blocker
) -> None:
    class SilentError(Exception):
        def __repr__(self) -> str:
            raise LookupError

        __str__ = __repr__

    def fail() -> None:
        blocker()
        raise SilentError

    chain = wq.chain()
    bad, rest = chain.submit(fail), chain.submit(int)
    blocker.release()
    with pytest.raises(SilentError):
        bad.result(DEADLINE)
    with pytest.raises(cf.CancelledError, match="SilentError"):
        rest.result(DEADLINE)


def test_a_failed_link_keeps_nothing_alive(wq: iowq.WorkQueue) -> None:
    class Argument:
        pass

    def fail(_argument: Argument) -> None:
        raise LookupError

    gc.collect()
    gc.disable()
    try:
        argument = Argument()
        alive = weakref.ref(argument)
        future = wq.chain().submit(fail, argument)
        del argument
        future.exception(DEADLINE)
        del future
        wq.flush(timeout=DEADLINE)
        wait_until(lambda: is_gone(alive))
    finally:
        gc.enable()
