"""Works whose futures are the event loop's own: iowq.aio.run, submit, to_thread, LoopExecutor."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import random
import socket
import threading
import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

import iowq
import iowq.aio
from loops import NEW_LOOPS, BaseAlarmError, alarms, each_loop
from support import DEADLINE, Blocker, is_gone, wait_until

if TYPE_CHECKING:
    from loops import Run

Call = Callable[..., Any]


def _by_run(wq: iowq.QueueExecutor) -> Call:
    return lambda fn, *args: iowq.aio.run(wq, fn, *args)


def _by_executor(wq: iowq.QueueExecutor) -> Call:
    executor = iowq.aio.LoopExecutor(wq)
    return lambda fn, *args: asyncio.get_running_loop().run_in_executor(executor, fn, *args)


both = pytest.mark.parametrize("way", [_by_run, _by_executor], ids=["run", "LoopExecutor"])


class _OwnError(BaseException):
    pass


@both
def test_results_and_exceptions(run: Run, wq: iowq.WorkQueue, way: Callable[..., Call]) -> None:
    def fail(kind: type[BaseException]) -> None:
        raise kind("text")

    async def main() -> None:
        for executor in (wq, wq.hashed("key"), wq.within(DEADLINE), wq.uncancellable, wq.unbounded):
            call = way(executor)
            assert await call(divmod, 7, 3) == (2, 1)
            for kind in (ValueError, _OwnError, TimeoutError):
                with pytest.raises(kind, match="text"):
                    await call(fail, kind)
            with pytest.raises(RuntimeError, match="StopIteration"):
                await call(next, iter(()))
            with pytest.raises(TypeError, match="fn must be callable"):
                await call(3)

    run(main())


@both
def test_a_time_limit_ends_the_work(run: Run, way: Callable[..., Call]) -> None:
    begun, ended = threading.Event(), threading.Event()
    ours, theirs = socket.socketpair()

    def receive() -> None:
        try:
            begun.set()
            ours.recv(1)
        finally:
            ended.set()

    async def main(wq: iowq.WorkQueue) -> None:
        future = asyncio.ensure_future(way(wq)(receive))
        await asyncio.sleep(0)
        wait_until(begun.is_set)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(future, 0.05)
        wait_until(ended.is_set)
        assert await way(wq)(int) == 0

    with ours, theirs, iowq.WorkQueue(1) as wq:
        run(main(wq))
        assert wq.stats().cancelled == 1


@both
def test_a_pending_work_that_is_cancelled_never_runs(
    run: Run, way: Callable[..., Call], blocker: Blocker
) -> None:
    ran: list[int] = []

    async def main(wq: iowq.WorkQueue) -> None:
        call = way(wq)
        first = asyncio.ensure_future(call(blocker))
        await asyncio.sleep(0)
        wait_until(lambda: wq.stats().running == 1)
        second = asyncio.ensure_future(call(ran.append, 1))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        blocker.release()
        await first

    with iowq.WorkQueue(1) as wq:
        run(main(wq))
    assert not ran


@both
def test_who_else_cancels_the_work_cancels_the_future(
    run: Run, way: Callable[..., Call], wq: iowq.WorkQueue
) -> None:
    async def main() -> None:
        tasks = [asyncio.ensure_future(way(wq)(time.sleep, 60)) for _ in range(12)]
        await asyncio.sleep(0)
        await asyncio.to_thread(wait_until, lambda: wq.stats().running == 8)
        wq.cancel_all()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(result, asyncio.CancelledError)

    run(main())


def test_the_loop_is_woken_once_for_many(
    monkeypatch: pytest.MonkeyPatch, wq: iowq.WorkQueue
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        calls: list[object] = []
        real = loop.call_soon_threadsafe

        def call(*args: Any, **kwargs: Any) -> object:
            calls.append(args)
            return real(*args, **kwargs)

        monkeypatch.setattr(loop, "call_soon_threadsafe", call)
        executor = iowq.aio.LoopExecutor(wq)
        begun = time.monotonic()
        futures = [loop.run_in_executor(executor, int, number) for number in range(100)]
        wait_until(lambda: wq.stats().finished == 100)  # on the loop's thread
        assert await asyncio.gather(*futures) == list(range(100))
        # once more for each tenth of a second that it takes: the machine may stand still
        assert 1 <= len(calls) <= 1 + (time.monotonic() - begun) / 0.1

    asyncio.run(main())


@each_loop
def test_a_loop_that_is_closed_meanwhile(
    new_loop: Callable[[], asyncio.AbstractEventLoop], wq: iowq.WorkQueue, blocker: Blocker
) -> None:
    """What ends then is dropped; the queue goes on, and so do other loops."""
    loop = new_loop()
    executor = iowq.aio.LoopExecutor(wq)

    async def main() -> list[Any]:
        return [asyncio.get_running_loop().run_in_executor(executor, blocker) for _ in range(3)]

    futures = loop.run_until_complete(main())
    wait_until(lambda: wq.stats().running == 3)
    loop.close()
    blocker.release()
    wait_until(lambda: wq.stats().running == 0)
    assert not any(future.done() for future in futures)
    assert asyncio.run(iowq.aio.run(wq, int)) == 0


def test_a_broken_queue_says_so() -> None:
    async def main() -> None:
        wq = iowq.WorkQueue(1, initializer=lambda: 1 / 0)
        with pytest.raises(iowq.BrokenWorkQueue):
            await iowq.aio.run(wq, int)
        with pytest.raises(iowq.BrokenWorkQueue):
            await iowq.aio.run(wq, int)

    asyncio.run(main())


def test_the_work_sees_the_tasks_context(run: Run, wq: iowq.WorkQueue) -> None:
    name: contextvars.ContextVar[str] = contextvars.ContextVar("name")

    async def main() -> None:
        name.set("task")
        assert await iowq.aio.run(wq, name.get) == "task"

    run(main())


@both
def test_nothing_is_kept(run: Run, wq: iowq.WorkQueue, way: Callable[..., Call]) -> None:
    """Neither argument nor result, once nobody has them, without a garbage collection."""

    class Thing:
        pass

    async def main() -> None:
        thing = Thing()
        argument, result = weakref.ref(thing), weakref.ref(await way(wq)(lambda _: Thing(), thing))
        del thing
        await asyncio.sleep(0)
        wait_until(lambda: wq.stats().running == 0)
        wait_until(lambda: is_gone(argument))
        wait_until(lambda: is_gone(result))

    gc.collect()
    gc.disable()
    try:
        run(main())
    finally:
        gc.enable()


def test_nothing_is_lost_under_stress() -> None:
    """Loops on four threads, works that are cancelled at any time: each future is completed."""

    async def main(wq: iowq.WorkQueue, seed: int) -> None:
        chance = random.Random(seed)

        async def one(number: int) -> None:
            if chance.random() < 0.5:
                assert await iowq.aio.run(wq, int, number) == number
                return
            task = asyncio.ensure_future(iowq.aio.run(wq, time.sleep, chance.random() / 200))
            await asyncio.sleep(chance.random() / 200)
            task.cancel()
            assert await asyncio.gather(task, return_exceptions=True)

        for _ in range(20):
            await asyncio.wait_for(asyncio.gather(*map(one, range(50))), DEADLINE)

    def run_loop(seed: int) -> None:
        loop = list(NEW_LOOPS.values())[seed % len(NEW_LOOPS)]()
        loop.run_until_complete(main(wq, seed))
        loop.close()
        done.append(seed)

    done: list[int] = []
    with iowq.WorkQueue(16) as wq:
        threads = [threading.Thread(target=run_loop, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(2 * DEADLINE)
    assert len(done) == 4


def test_a_signal_handler_that_raises_on_the_loop_loses_nothing(wq: iowq.WorkQueue) -> None:
    """At any instruction of a delivery: the loop ends, is run again, and has all of them."""

    async def begin() -> list[asyncio.Future[int]]:
        return [await iowq.aio.submit(wq, int, number) for number in range(200)]

    async def end(futures: list[asyncio.Future[int]]) -> None:
        assert await iowq.aio.run(wq, int) == 0
        assert await asyncio.gather(*futures) == list(range(200))

    chance = random.Random(3)
    with alarms(BaseAlarmError) as ringing:
        for _ in range(30):
            futures = ringing.loop.run_until_complete(begin())
            wait_until(lambda: wq.stats().running == wq.stats().pending == 0)
            ringing.run_forever(chance.uniform(0.00001, 0.002))
            time.sleep(0.1)  # then the loop is called again
            ringing.loop.run_until_complete(asyncio.wait_for(end(futures), DEADLINE))


def test_as_default_executor(run: Run, wq: iowq.WorkQueue) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(iowq.aio.LoopExecutor(wq.hashed("dns")))
        assert await loop.getaddrinfo("127.0.0.1", 80)
        assert await asyncio.to_thread(threading.get_native_id) != threading.get_native_id()

    run(main())  # which shuts it down
    assert wq.submit(int).result(DEADLINE) == 0


def test_views_of_a_loop_executor_are_loop_executors(wq: iowq.WorkQueue) -> None:
    async def main() -> None:
        for view in (executor.hashed("key"), executor.within(60).unbounded):
            future = view.submit(int, 5)
            assert asyncio.isfuture(future)
            assert await future == 5

    executor = iowq.aio.LoopExecutor(wq)
    asyncio.run(main())
    assert executor.submit(int, 6).result(DEADLINE) == 6  # type: ignore[call-arg]
    assert list(executor.map(int, "123")) == [1, 2, 3]
    order: list[int] = []
    list(executor.hashed("key").map(order.append, range(100)))
    assert order == list(range(100))  # the view's key is theirs, too
    assert executor.within(0.05).map(time.sleep, [60]) is not None
    with pytest.raises(TimeoutError):
        list(executor.within(0.05).map(time.sleep, [60]))
    with pytest.raises(TypeError, match="chain"):
        executor.chain()
    with pytest.raises(TypeError, match="must not be a chain"):
        iowq.aio.LoopExecutor(wq.chain())
    with pytest.raises(TypeError, match="must be a WorkQueue or a view"):
        iowq.aio.LoopExecutor(3)  # type: ignore[arg-type]


def test_a_chain_is_awaited(wq: iowq.WorkQueue) -> None:
    async def main() -> None:
        chain = wq.chain()
        first = await iowq.aio.submit(chain, divmod, 1, 0)
        second = await iowq.aio.submit(chain, int)
        with pytest.raises(ZeroDivisionError):
            await first
        with pytest.raises(asyncio.CancelledError):
            await second

    asyncio.run(main())


def test_to_thread_is_asyncios(run: Run) -> None:
    def work(*args: int, **kwargs: int) -> object:
        return args, kwargs, threading.current_thread().name

    async def main() -> None:
        found: Any = await iowq.aio.to_thread(work, 1, 2, func=3, key=4)
        args, kwargs, name = found
        assert (args, kwargs) == ((1, 2), {"func": 3, "key": 4})
        assert name.startswith("iowq-aio")
        ours, theirs = socket.socketpair()
        with ours, theirs:
            task = asyncio.ensure_future(iowq.aio.to_thread(ours.recv, 1))
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    run(main())


def test_a_full_queue(blocker: Blocker) -> None:
    async def main() -> None:
        with iowq.WorkQueue(1, max_pending=1, full_timeout=0) as wq:
            executor = iowq.aio.LoopExecutor(wq)
            first: Any = executor.submit(blocker)
            wait_until(lambda: wq.stats().running == 1)
            executor.submit(int)
            with pytest.raises(iowq.WorkQueueFull):
                executor.submit(int)
            blocker.release()
            await first

    asyncio.run(main())


def test_works_that_end_while_the_loop_is_busy_are_all_delivered(run: Run) -> None:
    async def main(wq: iowq.WorkQueue) -> None:
        for count in (1, 15, 16, 17, 100, 1000):  # around the sizes that the mailbox has
            futures = [await iowq.aio.submit(wq, int, i) for i in range(count)]
            wq.flush(DEADLINE)  # on the loop's thread
            assert await asyncio.gather(*futures) == list(range(count))

    with iowq.WorkQueue(4) as wq:
        run(main(wq))


def test_a_loop_that_is_gone_loses_its_works() -> None:
    async def main(wq: iowq.WorkQueue) -> list[weakref.ref[object]]:
        futures: list[Any] = [await iowq.aio.submit(wq, int, i) for i in range(100)]
        wq.flush(DEADLINE)
        return [weakref.ref(future._work) for future in futures]

    with iowq.WorkQueue(2) as wq:
        works = asyncio.run(main(wq))

        def all_are_gone() -> bool:
            gc.collect()
            return not any(work() for work in works)

        wait_until(all_are_gone)


def test_a_loop_that_was_closed_before_its_works_had_ended(blocker: Blocker) -> None:
    async def main(wq: iowq.WorkQueue) -> weakref.ref[object]:
        await iowq.aio.submit(wq, blocker)
        return weakref.ref(asyncio.get_running_loop())

    with iowq.WorkQueue(2) as wq:
        loop = asyncio.run(main(wq))
        blocker.release()
        wq.flush(DEADLINE)

        def is_gone() -> bool:
            gc.collect()
            return loop() is None

        wait_until(is_gone)


def test_a_future_that_cannot_be_completed_holds_up_no_other(run: Run, wq: iowq.WorkQueue) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda *_: None)
        broken: Any = await iowq.aio.submit(wq, int)
        broken._work = None  # which it needs
        futures = [await iowq.aio.submit(wq, int, i) for i in range(8)]
        assert await asyncio.wait_for(asyncio.gather(*futures), DEADLINE) == list(range(8))

    run(main())
