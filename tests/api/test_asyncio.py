"""asyncio's loops with a queue as their executor: its time limits and cancels end the work."""

from __future__ import annotations

import asyncio
import contextvars
import queue
import random
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

import iowq
from loops import each_loop
from support import DEADLINE, Blocker, wait_until_blocked

if TYPE_CHECKING:
    from loops import Run


@pytest.fixture
def one() -> Iterator[iowq.WorkQueue]:
    with iowq.WorkQueue(1) as wq:
        yield wq


class Victim:
    """A work that calls something which doesn't end by itself."""

    def __init__(self, block: Callable[[], object]) -> None:
        self._block = block
        self.thread = 0
        self.ended = threading.Event()

    def __call__(self) -> None:
        self.thread = threading.get_native_id()
        try:
            self._block()
        finally:
            self.ended.set()

    async def wait_started(self) -> None:
        await _until(lambda: self.thread)


async def _until(condition: Callable[[], object]) -> None:
    give_up = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < give_up, "the condition did not come true in time"
        await asyncio.sleep(0.001)


async def _submit(executor: iowq.QueueExecutor, fn: Callable[..., Any], *args: Any) -> Any:
    return await asyncio.get_running_loop().run_in_executor(executor, fn, *args)


async def _worker_is_free(wq: iowq.WorkQueue, victim: Victim) -> bool:
    """Whether the victim's own worker takes the next work. For a queue with one."""
    thread = await asyncio.wait_for(_submit(wq, threading.get_native_id), DEADLINE)
    return victim.ended.is_set() and thread == victim.thread


# ---- what executors are for


def test_results_and_exceptions(run: Run, wq: iowq.WorkQueue) -> None:
    async def main() -> None:
        for executor in (wq, wq.hashed("key"), wq.within(DEADLINE), wq.uncancellable):
            assert await _submit(executor, divmod, 7, 3) == (2, 1)
            with pytest.raises(ValueError, match="no number"):
                await _submit(executor, int, "no number")

    run(main())


def test_works_of_a_key_run_in_order_and_one_at_a_time(run: Run, wq: iowq.WorkQueue) -> None:
    begun: list[int] = []
    inside: list[int] = []

    def work(number: int) -> None:
        begun.append(number)
        inside.append(number)
        time.sleep(0.001)
        assert inside == [number]
        inside.clear()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        lane = wq.hashed("key")
        await asyncio.gather(*[loop.run_in_executor(lane, work, n) for n in range(100)])

    run(main())
    assert begun == list(range(100))


def test_the_loop_goes_on_meanwhile(run: Run, wq: iowq.WorkQueue, blocker: Blocker) -> None:
    async def main() -> None:
        works = [asyncio.ensure_future(_submit(wq, blocker)) for _ in range(8)]
        await _until(lambda: wq.stats().running == 8)
        blocker.release()
        await asyncio.gather(*works)

    run(main())


def test_gather_raises_the_first_error(run: Run, wq: iowq.WorkQueue) -> None:
    async def main() -> None:
        with pytest.raises(ZeroDivisionError):
            await asyncio.gather(*[_submit(wq, divmod, 1, n) for n in range(5)])
        outcomes = await asyncio.gather(
            *[_submit(wq, divmod, 1, n) for n in range(3)], return_exceptions=True
        )
        assert [type(outcome) for outcome in outcomes] == [ZeroDivisionError, tuple, tuple]

    run(main())


def test_works_see_the_callers_context(run: Run, wq: iowq.WorkQueue) -> None:
    variable = contextvars.ContextVar[str]("variable")

    async def main() -> None:
        variable.set("mine")
        assert await _submit(wq, variable.get) == "mine"

    run(main())


# ---- cancel and time limits


def _recv() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.recv(1)


def _sleep() -> None:
    time.sleep(600)


def _wait_for_an_event() -> None:
    threading.Event().wait()


def _wait_for_an_item() -> None:
    queue.Queue[None]().get()


def _compute() -> None:
    while True:
        pass


async def _cancel(future: asyncio.Future[None]) -> None:
    future.cancel()
    with pytest.raises(asyncio.CancelledError):
        await future


async def _wait_for(future: asyncio.Future[None]) -> None:
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(future, 0.01)


ENDS = [_cancel, _wait_for]

if sys.version_info >= (3, 11):

    async def _timeout(future: asyncio.Future[None]) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await future

    ENDS.append(_timeout)


@pytest.mark.parametrize("block", [_recv, _sleep, _wait_for_an_event, _wait_for_an_item, _compute])
@pytest.mark.parametrize("end", ENDS)
def test_the_work_ends_with_the_wait(
    run: Run,
    one: iowq.WorkQueue,
    block: Callable[[], object],
    end: Callable[[asyncio.Future[None]], Awaitable[None]],
) -> None:
    victim = Victim(block)

    async def main() -> None:
        future = asyncio.ensure_future(_submit(one, victim))
        await victim.wait_started()
        if block in (_recv, _sleep):  # else it may be about to wait for a lock: all the better
            wait_until_blocked(victim.thread)
        await end(future)
        assert await _worker_is_free(one, victim)

    run(main())


def test_a_key_is_free_after_a_cancel(run: Run, wq: iowq.WorkQueue) -> None:
    victim = Victim(_sleep)

    async def main() -> None:
        lane = wq.hashed("key")
        future = asyncio.ensure_future(_submit(lane, victim))
        after = asyncio.ensure_future(_submit(lane, victim.ended.is_set))
        await victim.wait_started()
        await _cancel(future)
        assert await after

    run(main())


def test_the_wait_ends_at_once_even_if_the_work_does_not(
    run: Run, one: iowq.WorkQueue, blocker: Blocker
) -> None:
    """The work's clean-up, or its shield, holds up nobody but its worker."""
    victim = Victim(blocker)

    async def main() -> None:
        future = asyncio.ensure_future(_submit(one.uncancellable, victim))
        await victim.wait_started()
        await _wait_for(future)
        assert not victim.ended.is_set()
        blocker.release()
        assert await _worker_is_free(one, victim)

    run(main())


def test_pending_work_that_is_cancelled_never_runs(
    run: Run, one: iowq.WorkQueue, blocker: Blocker
) -> None:
    seen: list[int] = []

    async def main() -> None:
        running = asyncio.ensure_future(_submit(one, blocker))
        await _until(lambda: one.stats().running)
        pending = asyncio.ensure_future(_submit(one, seen.append, 1))
        await _until(lambda: one.stats().pending)
        await _cancel(pending)
        assert one.stats().pending == 0
        blocker.release()
        await running

    run(main())
    assert not seen


def test_cancel_of_a_gather_ends_all_its_works(run: Run, wq: iowq.WorkQueue) -> None:
    victims = [Victim(block) for block in (_recv, _sleep, _wait_for_an_event, _compute)]

    async def main() -> None:
        works: Any = asyncio.gather(*[_submit(wq, victim) for victim in victims])
        for victim in victims:
            await victim.wait_started()
        await _cancel(works)
        await _until(lambda: all(victim.ended.is_set() for victim in victims))
        await _until(lambda: wq.stats().running == 0)

    run(main())


if sys.version_info >= (3, 11):

    def test_an_error_in_a_task_group_ends_the_works_of_its_other_tasks(
        run: Run, wq: iowq.WorkQueue
    ) -> None:
        victims = [Victim(_recv), Victim(_compute)]

        async def group_of_tasks() -> None:
            async with asyncio.TaskGroup() as group:
                for victim in victims:
                    group.create_task(_submit(wq, victim))
                    await victim.wait_started()
                group.create_task(_submit(wq, int, "no number"))

        async def main() -> None:
            with pytest.raises(ExceptionGroup):  # noqa: F821 - since 3.11
                await group_of_tasks()
            await _until(lambda: all(victim.ended.is_set() for victim in victims))
            await _until(lambda: wq.stats().running == 0)

        run(main())


def test_a_time_limit_of_the_queues_own_is_an_error(run: Run, wq: iowq.WorkQueue) -> None:
    """The work runs out of time; its caller wasn't cancelled."""

    async def main() -> None:
        with pytest.raises(TimeoutError):
            await _submit(wq.within(0.01), _sleep)

    run(main())


def test_cancel_by_the_queue_cancels_the_wait(run: Run, wq: iowq.WorkQueue) -> None:
    async def main() -> None:
        future = asyncio.ensure_future(_submit(wq, _sleep))
        await _until(lambda: wq.stats().running)
        wq.cancel_all()
        with pytest.raises(asyncio.CancelledError):
            await future

    run(main())


def test_shield_keeps_the_work(run: Run, wq: iowq.WorkQueue, blocker: Blocker) -> None:
    victim = Victim(blocker)

    async def main() -> None:
        future = asyncio.ensure_future(_submit(wq, victim))
        await victim.wait_started()
        await _wait_for(asyncio.shield(future))
        blocker.release()
        await future

    run(main())


# ---- the default executor


def test_to_thread(run: Run) -> None:
    variable = contextvars.ContextVar[str]("variable")
    victim = Victim(_recv)

    async def main() -> None:
        wq = iowq.WorkQueue(1)
        asyncio.get_running_loop().set_default_executor(wq)
        variable.set("mine")
        assert await asyncio.to_thread(variable.get) == "mine"
        assert await asyncio.to_thread(divmod, 7, 3) == (2, 1)
        future = asyncio.ensure_future(asyncio.to_thread(victim))
        await victim.wait_started()
        await _wait_for(future)
        assert await _worker_is_free(wq, victim)

    run(main())


def test_the_loop_looks_names_up_in_its_default_executor(run: Run) -> None:
    async def main() -> None:
        wq = iowq.WorkQueue(1)
        loop = asyncio.get_running_loop()
        loop.set_default_executor(wq)
        assert await asyncio.to_thread(int) == 0
        assert wq.stats().enqueued == 1
        assert await loop.getaddrinfo("127.0.0.1", 80)

    run(main())


def test_shutdown_of_the_default_executor_waits_and_closes(
    run: Run, one: iowq.WorkQueue, blocker: Blocker
) -> None:
    victim = Victim(blocker)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(one)
        work = asyncio.ensure_future(asyncio.to_thread(victim))
        await victim.wait_started()
        shutdown = asyncio.ensure_future(loop.shutdown_default_executor())
        await _until(lambda: "closed" in repr(one))
        assert not shutdown.done()
        blocker.release()
        await shutdown
        assert work.done()
        assert one.stats().workers == 0

    run(main())


def test_shutdown_of_a_view_leaves_the_queue_open(run: Run, wq: iowq.WorkQueue) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(wq.hashed("default"))
        assert await asyncio.to_thread(divmod, 7, 3) == (2, 1)
        await loop.shutdown_default_executor()
        assert await _submit(wq, divmod, 7, 3) == (2, 1)

    run(main())


# ---- the loop's end


def test_asyncio_run_ends_what_its_tasks_left_running(
    one: iowq.WorkQueue, caplog: pytest.LogCaptureFixture
) -> None:
    victim = Victim(_sleep)
    tasks = []

    async def main() -> None:
        tasks.append(asyncio.ensure_future(_submit(one, victim)))
        await victim.wait_started()

    asyncio.run(main())
    assert tasks[0].cancelled()
    assert victim.ended.wait(DEADLINE)
    one.flush(timeout=DEADLINE)
    assert not caplog.records


@each_loop
def test_a_loop_may_close_while_works_run(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
    wq: iowq.WorkQueue,
    blocker: Blocker,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Nobody waits for them any more: they go on, and nothing is reported."""
    loop = new_loop()
    futures = [loop.run_in_executor(wq, blocker) for _ in range(8)]
    blocker.wait_entered(8)
    loop.close()
    blocker.release()
    wq.flush(timeout=DEADLINE)
    assert not caplog.records
    assert not any(future.done() for future in futures)
    assert wq.submit(divmod, 7, 3).result(DEADLINE) == (2, 1)


CTRL_C = """
    import asyncio, iowq, threading, time

    def compute():
        while True:
            pass

    async def say_ready():
        while wq.stats().running < 3:
            await asyncio.sleep(0.001)
        print("ready", flush=True)

    async def main():
        loop = asyncio.get_running_loop()
        {before}
        works = [loop.run_in_executor({executor}, *work) for work in
                 [(time.sleep, 600), (threading.Event().wait, 600), (compute,)]]
        ready = asyncio.ensure_future(say_ready())
        await asyncio.gather(*works)

    wq = iowq.WorkQueue(4)
    asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("before", "executor"), [("pass", "wq"), ("loop.set_default_executor(wq)", "None")]
)
def test_ctrl_c_ends_the_program_and_its_works(before: str, executor: str) -> None:
    code = textwrap.dedent(CTRL_C.format(before=before, executor=executor))
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as program:
        assert program.stdout
        try:
            assert program.stdout.readline() == "ready\n"
            program.send_signal(signal.SIGINT)
            _, errors = program.communicate(timeout=DEADLINE)
        finally:
            program.kill()
    assert program.returncode == -signal.SIGINT, errors
    assert errors.endswith("KeyboardInterrupt\n")
    assert "Exception ignored" not in errors


# ---- all at once


class _Load:
    """Works of five keys, each behind the last one of its key; some never end by themselves."""

    def __init__(self, wq: iowq.WorkQueue) -> None:
        self._lanes = [wq.hashed(key) for key in range(5)]
        self.begun: list[list[int]] = [[] for _ in self._lanes]
        self.ended: Counter[int] = Counter()

    def _work(self, number: int) -> int:
        self.begun[number % 5].append(number)
        if number % 7 == 0:
            random.choice([_recv, _sleep, _wait_for_an_event, _compute])()
        time.sleep(0.0005)
        return number

    async def call(self, number: int) -> None:
        future = self._lanes[number % 5].submit(self._work, number)
        future.add_done_callback(lambda _: self.ended.update([number]))
        try:
            assert await asyncio.wrap_future(future) == number
            assert not future.cancelled()
        except asyncio.CancelledError:
            # It may have had its result already, which was on its way to the loop.
            await _until(future.done)
            assert future.cancelled() or future.result() == number
            raise


def test_cancels_at_random_under_load(run: Run) -> None:
    """Every work has one end, and who waits for it hears of that one."""
    count = 1500
    rng = random.Random(5)

    async def main() -> None:
        tasks = [asyncio.ensure_future(load.call(number)) for number in range(count)]
        await asyncio.sleep(0)
        victims = [number for number in range(count) if number % 7 == 0 or rng.random() < 0.3]
        rng.shuffle(victims)
        for number in victims:
            tasks[number].cancel()
            await asyncio.sleep(rng.choice([0, 0, 0, 0, 0.001]))
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {type(None), asyncio.CancelledError}
        await _until(lambda: not (wq.stats().pending or wq.stats().running))

    with iowq.WorkQueue(4) as wq:
        load = _Load(wq)
        run(main())
    assert load.ended == Counter(range(count))
    assert all(numbers == sorted(set(numbers)) for numbers in load.begun)
