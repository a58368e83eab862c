"""Submitting to a full queue from asyncio: the event loop is not blocked."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

import iowq
import iowq.aio
from support import DEADLINE, Blocker, wait_until


def test_run_returns_and_raises(wq: iowq.WorkQueue) -> None:
    async def main() -> None:
        assert await iowq.aio.run(wq, pow, 2, 10) == 1024
        with pytest.raises(ZeroDivisionError):
            await iowq.aio.run(wq.hashed("key"), divmod, 1, 0)
        with pytest.raises(TypeError, match="fn must be callable"):
            await iowq.aio.run(wq, 3)  # type: ignore[arg-type]

    asyncio.run(main())


def test_other_executors_are_refused() -> None:
    with (
        ThreadPoolExecutor(1) as executor,
        pytest.raises(TypeError, match=r"executor must be a WorkQueue .*ThreadPoolExecutor"),
    ):
        asyncio.run(iowq.aio.run(executor, int))  # type: ignore[arg-type]


def test_the_loop_goes_on_while_there_is_no_room(blocker: Blocker) -> None:
    async def main() -> None:
        with iowq.WorkQueue(1, max_pending=2) as wq:
            wq.submit(blocker)
            blocker.wait_entered()
            futures = [asyncio.create_task(iowq.aio.run(wq, int, n)) for n in range(50)]
            for _ in range(20):
                await asyncio.sleep(0.001)
            assert wq.stats().pending == 2
            blocker.release()
            assert await asyncio.gather(*futures) == list(range(50))

    asyncio.run(main())


def test_order_is_kept_while_there_is_no_room(blocker: Blocker) -> None:
    async def main() -> None:
        order: list[int] = []
        with iowq.WorkQueue(2, max_pending=1) as wq:
            log = wq.hashed("log")
            log.submit(blocker)
            threading.Timer(0.05, blocker.release).start()
            for number in range(100):
                await iowq.aio.submit(log, order.append, number)
        assert order == list(range(100))

    asyncio.run(main())


def test_a_full_queue_raises_if_it_is_to() -> None:
    async def main(full_timeout: float) -> None:
        with iowq.WorkQueue(1, max_pending=1, full_timeout=full_timeout) as wq:
            gate = Blocker()
            wq.submit(gate)
            gate.wait_entered()
            wq.submit(int)
            with pytest.raises(iowq.WorkQueueFull):
                await iowq.aio.submit(wq.hashed("key"), int)
            assert len(wq._keys) == 0
            gate.release()

    asyncio.run(main(0))
    asyncio.run(main(0.05))


def test_cancel_while_waiting_for_room(blocker: Blocker) -> None:
    """The waiter leaves nothing behind, and those after it get their turn."""

    async def main() -> None:
        ran: list[str] = []
        with iowq.WorkQueue(1, max_pending=1) as wq:
            wq.submit(blocker)
            blocker.wait_entered()
            wq.submit(int)
            log = wq.hashed("key")
            tasks = [asyncio.create_task(iowq.aio.run(log, ran.append, name)) for name in "ab"]
            while len(wq._admission._waiters) < 2:
                await asyncio.sleep(0)
            tasks[0].cancel()
            with pytest.raises(asyncio.CancelledError):
                await tasks[0]
            blocker.release()
            await tasks[1]
            wq.flush()
            assert ran == ["b"]
            assert not wq._admission._waiters
            assert len(wq._keys) == 0

    asyncio.run(main())


def test_cancel_stops_the_work(wq: iowq.WorkQueue) -> None:
    async def main() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(iowq.aio.run(wq, time.sleep, 60), 0.05)

    begun = time.monotonic()
    asyncio.run(main())
    wq.flush(timeout=DEADLINE)
    assert time.monotonic() - begun < 10


def test_threads_and_tasks_wait_in_one_line(blocker: Blocker) -> None:
    ran: list[int] = []

    async def produce(wq: iowq.WorkQueue) -> None:
        for number in range(200):
            await iowq.aio.run(wq, ran.append, number)

    with iowq.WorkQueue(2, max_pending=1) as wq:
        blocker.release()
        threads = [
            threading.Thread(target=lambda: [wq.enqueue(ran.append, n) for n in range(200)])
            for _ in range(2)
        ]
        threads += [threading.Thread(target=asyncio.run, args=(produce(wq),)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE)
            assert not thread.is_alive()
        wq.flush()
    assert sorted(ran) == sorted(4 * list(range(200)))


@pytest.mark.parametrize("closed", [True, False])
def test_a_waiter_whose_loop_stands_still_holds_up_nobody(blocker: Blocker, closed: bool) -> None:
    with iowq.WorkQueue(1, max_pending=1) as wq:
        wq.submit(blocker)
        blocker.wait_entered()
        wq.submit(int)
        loop = asyncio.new_event_loop()
        coroutine = iowq.aio.run(wq, int)
        task = loop.create_task(coroutine)
        loop.call_later(0.02, loop.stop)
        loop.run_forever()
        if closed:
            loop.close()
        got: list[iowq.Future[int]] = []
        thread = threading.Thread(target=lambda: got.append(wq.submit(int, "6")))
        thread.start()
        wait_until(lambda: len(wq._admission._waiters) == 2)
        blocker.release()
        thread.join(DEADLINE)
        assert got[0].result(DEADLINE) == 6
        if closed:
            coroutine.close()
        else:
            assert loop.run_until_complete(task) == 0
            loop.close()


def test_a_cancel_is_not_lost_when_there_is_room_at_the_same_time() -> None:
    async def main() -> None:
        gate = threading.Event()
        with iowq.WorkQueue(1, max_pending=1) as wq:
            first = asyncio.ensure_future(iowq.aio.run(wq, gate.wait))
            await asyncio.sleep(0)
            wait_until(lambda: wq.stats().running == 1)
            second = asyncio.ensure_future(iowq.aio.run(wq, int))
            third = asyncio.ensure_future(iowq.aio.run(wq, gate.clear))
            while not wq._admission._waiters:
                await asyncio.sleep(0.001)
            gate.set()
            wait_until(lambda: wq.stats().pending == 0)  # and the loop, too, waits for that
            await asyncio.sleep(0)
            third.cancel()
            with pytest.raises(asyncio.CancelledError):
                await third
            await asyncio.gather(first, second)
        assert gate.is_set()

    asyncio.run(main())
