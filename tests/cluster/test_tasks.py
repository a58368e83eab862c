"""Tasks that are cancelled, or that nobody wants any more, end where they are."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from dask.base import annotate
from distributed import (
    Client,
    Future,
    Scheduler,
    Worker,
    fire_and_forget,
    get_worker,
    worker_client,
)

import iowq.dask
from cluster import client  # noqa: F401
from support import run_python, wait_until
from tasks import Trace, compute, receive, wait_for_an_event

Begin: TypeAlias = "Callable[..., tuple[Future[Any], Trace]]"


@pytest.fixture
def begin(client: Client, tmp_path: Path) -> Iterator[Begin]:
    """Has a task run that waits so, until it is ended; all are, at the end."""
    numbers = itertools.count()
    futures: list[Future[Any]] = []

    def begin(wait: Callable[[], object] = receive, **options: Any) -> tuple[Future[Any], Trace]:
        trace = Trace(tmp_path / str(next(numbers)))
        future = client.submit(trace, wait, pure=False, **options)
        trace.wait_for("begun")
        futures.append(future)
        return future, trace

    yield begin
    client.cancel(futures, force=True)
    wait_until(lambda: _nothing_runs(client))


def _count_running(dask_worker: Worker) -> int:
    return len(list(dask_worker.state.all_running_tasks))


def _nothing_runs(client: Client) -> bool:
    return not any(client.run(_count_running).values())


@pytest.mark.parametrize("wait", [receive, wait_for_an_event, compute])
def test_a_cancelled_task_ends(client: Client, begin: Begin, wait: Callable[[], object]) -> None:
    future, trace = begin(wait)
    future.cancel()
    assert trace.wait_for("ended") == "Cancelled"
    assert future.cancelled()
    wait_until(lambda: _nothing_runs(client))  # its thread is free again


def test_cancel_of_many_gives_all_threads_back(client: Client, begin: Begin) -> None:
    tasks = [begin() for _ in range(4)]
    client.cancel([future for future, _ in tasks])
    for _, trace in tasks:
        assert trace.wait_for("ended") == "Cancelled"
    assert client.gather(client.map(lambda n: n, range(8), pure=False)) == list(range(8))


def test_a_released_future_ends_its_task(client: Client, tmp_path: Path) -> None:
    trace = Trace(tmp_path / "released")
    future = client.submit(trace, receive, pure=False)
    trace.wait_for("begun")
    del future
    assert trace.wait_for("ended") == "Cancelled"


def test_what_somebody_still_wants_goes_on(client: Client, begin: Begin) -> None:
    future, trace = begin()
    fire_and_forget(future)
    future.cancel()  # for this client
    assert client.submit(lambda: 1, pure=False).result() == 1  # sent after the cancel
    assert not trace.has("ended")
    client.cancel([Future(future.key, client)], force=True)
    assert trace.wait_for("ended") == "Cancelled"


def test_a_task_that_is_wanted_again_runs_anew(client: Client, tmp_path: Path) -> None:
    """Though its first run is still being ended: what that raises is nobody's result."""
    worker = next(iter(client.nthreads()))
    first = client.submit(_stubborn, tmp_path, key="again", workers=[worker])
    wait_until((tmp_path / "begun").exists)
    first.cancel()
    wait_until((tmp_path / "cleans-up").exists)
    with Client(
        client.scheduler_info()["address"]
    ) as other:  # the first is still being told of its cancel
        second = other.submit(_stubborn, tmp_path, key="again", workers=[worker])
        wait_until(lambda: client.run(_state_of, "again")[worker] == "executing")
        (tmp_path / "go-on").touch()
        assert second.result(timeout=20) == "second run"


def _state_of(key: str, dask_worker: Worker) -> str | None:
    task = dask_worker.state.tasks.get(key)
    return task.state if task else None


def _stubborn(folder: Path) -> str:
    if (folder / "begun").exists():
        return "second run"
    try:
        (folder / "begun").touch()
        receive()
    finally:
        (folder / "cleans-up").touch()
        with iowq.shield():
            wait_until((folder / "go-on").exists)
    return "first run"


def test_a_pending_task_never_begins(client: Client, begin: Begin, tmp_path: Path) -> None:
    for _ in range(4):
        begin()
    pending = Trace(tmp_path / "pending")
    future = client.submit(pending, receive, pure=False)
    future.cancel()
    assert client.submit(lambda: 1, pure=False, priority=1).status  # nothing waits for it
    assert not pending.has("begun")


def test_a_coroutine_is_cancelled_too(client: Client, tmp_path: Path) -> None:
    future = client.submit(_sleep, tmp_path, pure=False)
    wait_until((tmp_path / "begun").exists)
    future.cancel()
    wait_until((tmp_path / "cancelled").exists)
    wait_until(lambda: _nothing_runs(client))


async def _sleep(folder: Path) -> None:
    (folder / "begun").touch()
    try:
        await asyncio.sleep(1000)
    except asyncio.CancelledError:
        (folder / "cancelled").touch()
        raise


def test_a_thousand_cancels_at_once(client: Client) -> None:
    futures = client.map(lambda _: time.sleep(1000), range(1000), pure=False)
    wait_until(lambda: sum(client.run(_count_running).values()) == 4)
    client.cancel(futures, force=True)
    assert client.submit(lambda: 1, pure=False).result(timeout=20) == 1
    wait_until(lambda: _nothing_runs(client))


# ---- time limits


@pytest.mark.parametrize("wait", [receive, compute])
def test_a_task_has_a_time_limit(client: Client, wait: Callable[[], object]) -> None:
    with annotate(timeout=0.05):
        future = client.submit(wait, pure=False)
    with pytest.raises(TimeoutError, match=r"not done in 0\.05 s"):
        future.result(timeout=20)


def test_a_coroutine_has_a_time_limit(client: Client) -> None:
    with annotate(timeout="50ms"):
        future: Future[Any] = client.submit(asyncio.sleep, 1000, pure=False)
    with pytest.raises(TimeoutError, match=r"not done in 0\.05 s"):
        future.result(timeout=20)


@pytest.mark.parametrize("limit", [None, 20])
def test_a_time_out_of_its_own_is_a_coroutines_error(client: Client, limit: int | None) -> None:
    with annotate(timeout=limit):
        future: Future[Any] = client.submit(_time_out, pure=False)
    with pytest.raises(TimeoutError, match="its own"):
        future.result(timeout=20)


async def _time_out() -> None:
    raise TimeoutError("its own")


def test_a_limit_counts_each_retry(client: Client, tmp_path: Path) -> None:
    with annotate(timeout="1s", retries=1):
        future = client.submit(_slow_at_first, tmp_path, pure=False)
    assert future.result(timeout=30) == "second run"


def _slow_at_first(folder: Path) -> str:
    if (folder / "begun").exists():
        return "second run"
    (folder / "begun").touch()
    time.sleep(1000)
    return "first run"


@pytest.mark.parametrize("limit", [0, -1, "soon", float("nan"), [1]])
def test_a_wrong_limit_is_the_tasks_error(client: Client, limit: object) -> None:
    with annotate(timeout=limit):
        future = client.submit(lambda: 1, pure=False)
    with pytest.raises((ValueError, TypeError), match=r"timeout|Could not interpret"):
        future.result(timeout=20)


def test_a_limit_that_cannot_be_kept_is_refused(client: Client) -> None:
    with annotate(timeout=1, executor="offload"):
        future = client.submit(lambda: 1, pure=False)
    with pytest.raises(RuntimeError, match="timeout needs an executor of iowq's"):
        future.result(timeout=20)


# ---- Dask's own


def test_a_task_knows_its_worker_and_its_client(client: Client) -> None:
    assert client.submit(_ask_the_cluster, 20, pure=False).result(timeout=20) == 21


def _ask_the_cluster(n: int) -> int:
    with worker_client() as client:
        result: int = client.submit(lambda: n + 1, pure=False).result()
    return result + get_worker().state.nthreads - 2


def test_tasks_that_wait_for_tasks_make_room(client: Client) -> None:
    """More of them than there are threads: each secedes, and rejoins."""
    futures = client.map(_ask_the_cluster, range(12), pure=False)
    assert client.gather(futures) == [n + 1 for n in range(12)]


def test_a_task_that_has_seceded_is_cancelled_too(client: Client, tmp_path: Path) -> None:
    future = client.submit(_secede_and_wait, Trace(tmp_path / "seceded"), pure=False)
    trace = Trace(tmp_path / "seceded")
    trace.wait_for("begun")
    future.cancel()
    assert trace.wait_for("ended") == "Cancelled"


def _secede_and_wait(trace: Trace) -> None:
    with worker_client():
        trace(receive)


def test_as_many_tasks_as_threads_run_at_once(client: Client) -> None:
    both = client.map(_meet, range(2), pure=False, workers=[next(iter(client.nthreads()))])
    assert sorted(client.gather(both)) == [0, 1]


_barrier = threading.Barrier(2, timeout=20)


def _meet(_: int) -> int:
    import test_tasks  # the worker's own, not a copy

    return test_tasks._barrier.wait()


def test_iowq_alone_does_not_import_dask() -> None:
    result = run_python("import sys, iowq; assert not {'dask', 'distributed'} & {*sys.modules}")
    assert result.returncode == 0, result.stderr


# ---- workers in this process


Body = Callable[[Worker, Client], Coroutine[Any, Any, None]]


def _run_with_worker(body: Body, executor: Executor | None = None) -> None:
    async def run() -> None:
        async with (
            Scheduler(dashboard_address=":0", port=0) as scheduler,
            Worker(scheduler.address, nthreads=2, executor=executor) as worker,
            Client(scheduler.address, asynchronous=True) as client,
        ):
            await iowq.dask.register(client)
            await body(worker, client)

    asyncio.run(run())


async def _become(condition: Callable[[], object]) -> None:
    give_up = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < give_up
        await asyncio.sleep(0.001)


def test_a_worker_may_bring_its_executor() -> None:
    with iowq.dask.ThreadPoolExecutor(2) as executor:

        async def body(worker: Worker, client: Client) -> None:
            assert worker.executors["default"] is executor
            assert await client.submit(lambda: get_worker().state.nthreads) == 2
            future = client.submit(receive)
            await _become(lambda: worker.state.executing)
            await future.cancel()
            await _become(lambda: not worker.state.executing)

        _run_with_worker(body, executor)


def test_a_worker_that_is_closed_ends_its_tasks(tmp_path: Path) -> None:
    trace = Trace(tmp_path / "closed")

    async def body(worker: Worker, client: Client) -> None:
        future = client.submit(trace, receive)
        await _become(lambda: trace.has("begun"))
        await worker.close()
        await _become(lambda: trace.has("ended"))
        assert future.status == "pending"  # for another worker

    _run_with_worker(body)
    assert trace.wait_for("ended") == "Cancelled"


def test_a_worker_gets_its_own_executor_back() -> None:
    async def body(worker: Worker, client: Client) -> None:
        future = client.submit(time.sleep, 0.1)
        await _become(lambda: worker.state.executing)
        await client.unregister_worker_plugin("iowq")
        assert not isinstance(worker.executors["default"], iowq.WorkQueue)
        assert await client.submit(lambda: 3) == 3
        assert await future is None  # what ran there runs to its end

    _run_with_worker(body)
