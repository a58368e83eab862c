"""iowq.anyio.run_sync, on both of anyio's event loops."""

from __future__ import annotations

import asyncio
import contextvars
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import anyio
import pytest

import iowq
from iowq.anyio import run_sync
from support import DEADLINE, Blocker, run_python, wait_until

Run = Callable[[Callable[[], Awaitable[Any]]], Any]


@pytest.fixture(params=["asyncio", "trio"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a coroutine function in a new event loop."""
    return lambda main: anyio.run(main, backend=request.param)


@pytest.fixture
def one() -> Iterator[iowq.WorkQueue]:
    with iowq.WorkQueue(1) as queue:
        yield queue


async def _started(works: list[Any]) -> None:
    with anyio.fail_after(DEADLINE):
        while not works:
            await anyio.sleep(0.001)


def test_result(run: Run, wq: iowq.WorkQueue) -> None:
    async def main() -> None:
        assert await run_sync(divmod, 7, 3, executor=wq) == (2, 1)
        assert await run_sync(divmod, 7, 3, executor=wq.hashed("key")) == (2, 1)

    run(main)


def test_exception(run: Run, wq: iowq.WorkQueue) -> None:
    async def main() -> None:
        with pytest.raises(ValueError, match="no number"):
            await run_sync(int, "no number", executor=wq)

    run(main)


def test_the_loop_goes_on_meanwhile(run: Run, wq: iowq.WorkQueue, blocker: Blocker) -> None:
    async def main() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(4):
                group.start_soon(lambda: run_sync(blocker, executor=wq))
            while wq.stats().running < 4:
                await anyio.sleep(0.001)
            blocker.release()

    run(main)


def test_works_see_the_callers_context(run: Run, wq: iowq.WorkQueue) -> None:
    variable = contextvars.ContextVar[str]("variable")

    async def main() -> None:
        variable.set("mine")
        assert await run_sync(variable.get, executor=wq) == "mine"

    run(main)


def test_works_may_run_loops_of_their_own(run: Run, wq: iowq.WorkQueue) -> None:
    """A work sees its caller's context, but isn't in its caller's loop."""

    async def main() -> None:
        for backend in ("asyncio", "trio"):
            await run_sync(_sleep_in_a_loop, backend, executor=wq)

    run(main)


def _sleep_in_a_loop(backend: str) -> None:
    anyio.run(anyio.sleep, 0, backend=backend)


def _compute() -> None:
    while True:
        pass


def _recv() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.recv(1)


@pytest.mark.parametrize(
    "block", [_recv, lambda: time.sleep(600), lambda: threading.Event().wait(600), _compute]
)
def test_timeout_ends_the_work(run: Run, one: iowq.WorkQueue, block: Callable[[], object]) -> None:
    threads: list[int] = []
    ended: list[bool] = []

    def work() -> None:
        threads.append(threading.get_native_id())
        try:
            block()
        finally:
            ended.append(True)

    async def main() -> None:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(lambda: run_sync(work, executor=one))
                await _started(threads)
                scope.deadline = anyio.current_time() + 0.01
        assert scope.cancelled_caught
        assert ended == [True]
        with anyio.fail_after(DEADLINE):
            thread = await run_sync(threading.get_native_id, executor=one)
        assert thread == threads[0]

    run(main)


def test_clean_up_ends_before_the_scope(run: Run, one: iowq.WorkQueue) -> None:
    seen: list[str] = []

    def work() -> None:
        seen.append("begun")
        try:
            time.sleep(600)
        finally:
            time.sleep(0.1)
            seen.append("cleaned up")

    async def main() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: run_sync(work, executor=one))
            await _started(seen)
            group.cancel_scope.cancel()
        assert seen == ["begun", "cleaned up"]

    run(main)


def test_abandoned_work_is_ended_but_not_awaited(
    run: Run, one: iowq.WorkQueue, blocker: Blocker
) -> None:
    """The queue ends in the loop's own thread, which then has no time for the work's end."""
    seen: list[str] = []

    def work() -> None:
        seen.append("begun")
        try:
            time.sleep(600)
        finally:
            with iowq.shield():
                blocker()
            seen.append("cleaned up")

    async def main() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: run_sync(work, executor=one, abandon_on_cancel=True))
            await _started(seen)
            group.cancel_scope.cancel()
        assert seen == ["begun"]
        blocker.release()
        one.close()
        assert seen == ["begun", "cleaned up"]

    run(main)


def test_abandoned_work_may_outlive_the_loop(
    run: Run, one: iowq.WorkQueue, blocker: Blocker, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with anyio.create_task_group() as group:
            only = one.uncancellable
            group.start_soon(lambda: run_sync(blocker, executor=only, abandon_on_cancel=True))
            while one.stats().running == 0:
                await anyio.sleep(0.001)
            group.cancel_scope.cancel()

    run(main)
    blocker.release()
    one.flush(timeout=DEADLINE)
    assert not caplog.records


def test_pending_work_never_runs(run: Run, one: iowq.WorkQueue, blocker: Blocker) -> None:
    seen: list[int] = []
    one.enqueue(blocker)

    async def main() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: run_sync(seen.append, 1, executor=one))
            while one.stats().enqueued < 2:
                await anyio.sleep(0.001)
            group.cancel_scope.cancel()

    run(main)
    blocker.release()
    one.flush(timeout=DEADLINE)
    assert not seen


def test_nothing_is_enqueued_in_a_cancelled_scope(run: Run, one: iowq.WorkQueue) -> None:
    async def main() -> None:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await run_sync(int, executor=one)
        assert scope.cancelled_caught

    run(main)
    assert one.stats().enqueued == 0


def test_uncancellable_work_is_awaited(run: Run, one: iowq.WorkQueue) -> None:
    seen: list[str] = []

    def work() -> None:
        seen.append("begun")
        wait_until(iowq.cancel_requested)
        seen.append("done")

    async def main() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: run_sync(work, executor=one.uncancellable))
            await _started(seen)
            group.cancel_scope.cancel()
        assert seen == ["begun", "done"]

    run(main)


def test_cancel_from_elsewhere_reaches_the_caller(run: Run, one: iowq.WorkQueue) -> None:
    async def main() -> None:
        async with anyio.create_task_group() as group:

            async def wait() -> None:
                with pytest.raises(CancelledError):
                    await run_sync(time.sleep, 600, executor=one)

            group.start_soon(wait)
            while one.stats().running == 0:
                await anyio.sleep(0.001)
            one.cancel_all()

    run(main)


def test_the_loop_goes_on_while_there_is_no_room(run: Run, blocker: Blocker) -> None:
    results: list[int] = []

    async def call(lane: iowq.QueueExecutor, number: int) -> None:
        results.append(await run_sync(abs, number, executor=lane))

    async def main() -> None:
        with iowq.WorkQueue(1, max_pending=2) as wq:
            wq.enqueue(blocker)
            async with anyio.create_task_group() as group:
                for number in range(50):
                    group.start_soon(call, wq.hashed("key"), number)
                while len(wq._admission._waiters) < 48:
                    await anyio.sleep(0)
                blocker.release()

    run(main)
    assert sorted(results) == list(range(50))


def test_cancel_while_waiting_for_room(run: Run, blocker: Blocker) -> None:
    async def main() -> None:
        with iowq.WorkQueue(1, max_pending=1) as wq:
            wq.enqueue(blocker)
            blocker.wait_entered()
            pending = wq.submit(int)
            with anyio.move_on_after(0.01) as scope:
                await run_sync(int, executor=wq.hashed("key"))
            assert scope.cancelled_caught
            assert not wq._admission._waiters
            assert len(wq._keys) == 0
            assert pending.pending()
            blocker.release()

    run(main)


@pytest.mark.parametrize("full_timeout", [0, 0.05])
def test_a_full_queue_raises_if_it_is_to(run: Run, blocker: Blocker, full_timeout: float) -> None:
    async def main() -> None:
        with iowq.WorkQueue(1, max_pending=1, full_timeout=full_timeout) as wq:
            wq.enqueue(blocker)
            blocker.wait_entered()
            wq.enqueue(int)
            with pytest.raises(iowq.WorkQueueFull):
                await run_sync(int, executor=wq)
            blocker.release()

    run(main)


def test_tasks_of_asyncio_alone(one: iowq.WorkQueue) -> None:
    """Their cancel isn't anyio's."""
    seen: list[str] = []

    def work() -> None:
        seen.append("begun")
        try:
            time.sleep(600)
        finally:
            seen.append("cleaned up")

    async def main() -> None:
        task = asyncio.ensure_future(run_sync(work, executor=one))
        await _started(seen)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        assert task.cancelled()
        assert seen == ["begun", "cleaned up"]

    asyncio.run(main())


def test_any_executor_will_do(run: Run) -> None:
    variable = contextvars.ContextVar[str]("variable")

    async def main() -> None:
        variable.set("mine")
        with ThreadPoolExecutor(1) as pool:
            assert await run_sync(divmod, 7, 3, executor=pool) == (2, 1)
            assert await run_sync(variable.get, executor=pool) == "mine"

    run(main)


def test_only_this_module_needs_anyio() -> None:
    result = run_python("import iowq, sys; print('anyio' in sys.modules)")
    assert result.stdout == "False\n", result


def test_an_exception_in_the_mailbox_loses_no_work(
    wq: iowq.WorkQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as a signal's handler raises on the loop's thread, at any instant."""
    event = type(asyncio.run(_new_event()))
    raised: list[object] = []
    set_event = event.set

    def fail_once(self: Any) -> None:
        if not raised:
            raised.append(self)
            raise KeyError
        set_event(self)

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        gate = threading.Event()
        with anyio.fail_after(DEADLINE):
            async with anyio.create_task_group() as group:
                for _ in range(8):
                    group.start_soon(lambda: run_sync(gate.wait, executor=wq.unbounded))
                while wq.stats().running < 8:
                    await anyio.sleep(0.001)
                monkeypatch.setattr(event, "set", fail_once)
                gate.set()
                wq.flush(DEADLINE)  # on the loop's thread
        assert raised

    asyncio.run(main())


async def _new_event() -> anyio.Event:
    return anyio.Event()
