"""Tasks of one key run one at a time, in order, on one worker, whatever becomes of them."""

from __future__ import annotations

import gc
import itertools
import sys
import time
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import pytest
from dask.base import annotate
from distributed import Client, Future, Scheduler, get_worker

import iowq.dask
from cluster import client  # noqa: F401
from iowq import Cancel
from iowq.dask import ClusterQueue
from support import wait_until
from tasks import Trace, check_runs, kill, log_run, receive, workers_of


def _submit(client: Client, key: Any, *call: Any, **options: Any) -> Future[Any]:
    with annotate(iowq_key=key):
        return client.submit(*call, pure=False, **options)


def _is_forgotten(client: Client) -> bool:
    """Whether the plugin knows of no task any more."""
    gc.collect()
    return client.run_on_scheduler(_count) == (0, 0)  # type: ignore[no-any-return]


def _count(dask_scheduler: Scheduler) -> tuple[int, int]:
    plugin: Any = dask_scheduler.plugins["iowq"]
    return len(plugin._places), len(plugin._lines)


def test_keys_keep_their_order(client: Client, tmp_path: Path) -> None:
    futures = [
        _submit(client, key, log_run, tmp_path, key, number)
        for number in range(30)
        for key in "abcd"
    ]
    assert client.gather(futures) == [number for number in range(30) for _ in "abcd"]
    for key in "abcd":
        assert check_runs(tmp_path, key, 30) == 0
        assert len(workers_of(tmp_path, key)) == 1
    del futures
    wait_until(lambda: _is_forgotten(client))


def test_a_graph_keeps_its_order(client: Client, tmp_path: Path) -> None:
    with annotate(iowq_key="graph"):
        futures = client.map(lambda n: log_run(tmp_path, "graph", n), range(20), pure=False)
    client.gather(futures)
    assert check_runs(tmp_path, "graph", 20) == 0


def test_dependencies_are_waited_for(client: Client, tmp_path: Path) -> None:
    """Also by those of the key that come later."""
    slow = client.submit(_sleep, 0.2, pure=False)
    first = _submit(client, "k", lambda _: log_run(tmp_path, "k", 0), slow)
    second = _submit(client, "k", log_run, tmp_path, "k", 1)
    assert client.gather([first, second]) == [0, 1]
    assert check_runs(tmp_path, "k", 2) == 0


def _sleep(seconds: float) -> None:
    time.sleep(seconds)


def test_keys_do_not_wait_for_each_other(client: Client, tmp_path: Path) -> None:
    trace = Trace(tmp_path / "busy")
    busy = _submit(client, "busy", trace, receive)
    trace.wait_for("begun")
    waiting = _submit(client, "busy", int, "2")
    assert _submit(client, "other", int, "3").result(timeout=20) == 3
    assert client.gather(client.map(lambda n: n, range(8), pure=False)) == list(range(8))
    assert not waiting.done()
    busy.cancel()
    assert waiting.result(timeout=20) == 2


def test_failed_and_cancelled_ones_are_passed_over(client: Client, tmp_path: Path) -> None:
    trace = Trace(tmp_path / "first")
    first = _submit(client, "k", trace, receive)
    trace.wait_for("begun")
    failing = _submit(client, "k", int, "no number")
    pending = _submit(client, "k", log_run, tmp_path, "k", 99)
    last = _submit(client, "k", log_run, tmp_path, "k", 0)
    pending.cancel()
    first.cancel()
    assert last.result(timeout=20) == 0
    assert failing.status == "error"
    assert check_runs(tmp_path, "k", 1) == 0


def test_the_next_waits_for_the_clean_up(client: Client, tmp_path: Path) -> None:
    """Though Dask forgets a cancelled task at once."""
    first = _submit(client, "k", _clean_up_slowly, tmp_path)
    wait_until((tmp_path / "begun").exists)
    second = _submit(client, "k", lambda: (tmp_path / "cleaned-up").exists())
    first.cancel()
    assert second.result(timeout=20)


def _clean_up_slowly(folder: Path) -> None:
    try:
        (folder / "begun").touch()
        receive()
    finally:
        with iowq.shield():
            time.sleep(0.3)
            (folder / "cleaned-up").touch()


def test_a_retry_comes_before_the_next(client: Client, tmp_path: Path) -> None:
    first = _submit(client, "k", _fail_at_first, tmp_path, retries=1)
    second = _submit(client, "k", log_run, tmp_path, "k", 1)
    assert client.gather([first, second]) == [0, 1]
    assert check_runs(tmp_path, "k", 2) == 0


def _fail_at_first(folder: Path) -> int:
    if not (folder / "failed").exists():
        (folder / "failed").touch()
        raise ValueError("at first")
    return log_run(folder, "k", 0)


def test_owners_restrictions_hold(client: Client) -> None:
    for worker in client.nthreads():
        with annotate(workers=[worker]):
            future = _submit(client, "k", lambda: get_worker().address)
        assert future.result(timeout=20) == worker


@pytest.mark.parametrize("key", [1, ("a", 2), frozenset("ab"), float, b"k"])
def test_any_hashable_is_a_key(client: Client, key: Hashable) -> None:
    with ClusterQueue(client) as queue:
        queue.enqueue_hashed(key, _sleep, 0)


def test_an_unhashable_key_is_the_tasks_error(client: Client) -> None:
    with pytest.raises(RuntimeError, match="must be hashable"):
        _submit(client, [1], int).result(timeout=20)


# ---- a worker that dies


def test_order_outlives_a_worker(client: Client, tmp_path: Path) -> None:
    """It is killed while it works at its keys; the results that it has are lost."""
    keys = [f"key{n}" for n in range(6)]
    futures = [
        _submit(client, key, log_run, tmp_path, key, number, 0.01)
        for number in range(20)
        for key in keys
    ]
    wait_until(lambda: workers_of(tmp_path, keys[0]).total() > 8)
    (victim,) = workers_of(tmp_path, keys[0])
    kill(int(victim))
    assert client.gather(futures) == [number for number in range(20) for _ in keys]
    again = [check_runs(tmp_path, key, 20) for key in keys]
    assert max(again) <= 1  # what ran when it died, but nothing that was done
    assert len(workers_of(tmp_path, keys[0])) >= 2  # a third one may have come in its place
    client.wait_for_workers(2, timeout=60)


def test_a_lost_result_is_not_computed_anew(client: Client, tmp_path: Path) -> None:
    client.wait_for_workers(2, timeout=60)
    log = [_submit(client, "once", log_run, tmp_path, "once", number) for number in range(3)]
    assert client.gather(log) == [0, 1, 2]
    kill(int(next(iter(workers_of(tmp_path, "once")))))
    assert _submit(client, "once", log_run, tmp_path, "once", 3).result(timeout=60) == 3
    assert client.gather(log) == [0, 1, 2]
    assert check_runs(tmp_path, "once", 4) == 0


def test_a_restarted_worker_has_the_executor(client: Client) -> None:
    client.wait_for_workers(2, timeout=60)
    executors = client.run(lambda dask_worker: type(dask_worker.executors["default"]).__module__)
    assert set(executors.values()) == {"iowq._dask.executor"}


# ---- the queue


def test_flush_waits_for_what_was_enqueued(client: Client, tmp_path: Path) -> None:
    queue = ClusterQueue(client)
    for number in range(8):
        queue.enqueue((tmp_path / str(number)).touch)
        queue.enqueue_hashed("k", log_run, tmp_path, "k", number)
    queue.flush(timeout=30)
    assert all((tmp_path / str(number)).exists() for number in range(8))
    assert check_runs(tmp_path, "k", 8) == 0


def test_flush_has_a_timeout(client: Client, tmp_path: Path) -> None:
    queue = ClusterQueue(client)
    work = queue.enqueue(Trace(tmp_path / "work"), receive)
    with pytest.raises(TimeoutError):
        queue.flush(timeout=0.05)
    queue.cancel(work)
    queue.flush(timeout=30)


def test_cancel_says_what_it_found(client: Client, tmp_path: Path) -> None:
    queue, other = ClusterQueue(client), ClusterQueue(client)
    assert other.cancel(other.submit(receive)) is not Cancel.NOTFOUND
    trace = Trace(tmp_path / "running")
    running = queue.enqueue_hashed("k", trace, receive)
    trace.wait_for("begun")
    pending = queue.enqueue_hashed("k", receive)
    done = queue.submit(int, "3")
    assert done.result(timeout=20) == 3
    assert other.cancel(running) is Cancel.NOTFOUND
    assert queue.cancel(pending) is Cancel.OK
    assert queue.cancel(running) is Cancel.RUNNING
    queue.flush(timeout=30)
    assert trace.has("ended")
    assert queue.cancel(running) is Cancel.NOTFOUND
    assert queue.cancel(done) is Cancel.NOTFOUND
    assert running.cancelled()
    with pytest.raises(TypeError, match="must be a Future"):
        queue.cancel(3)  # type: ignore[arg-type]


def test_a_work_is_cancelled_as_soon_as_it_is_enqueued(client: Client, tmp_path: Path) -> None:
    queue = ClusterQueue(client)
    numbers = itertools.count()
    for _ in range(10):
        path = tmp_path / str(next(numbers))
        answer = queue.cancel(queue.enqueue(Trace(path), receive))
        queue.flush(timeout=30)
        assert answer in (Cancel.OK, Cancel.RUNNING)
        assert Trace(path).has("begun") <= (answer is Cancel.RUNNING)


def test_errors_are_reported(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[Future[Any], BaseException]] = []
    queue = ClusterQueue(client, on_error=lambda work, error: told.append((work, error)))
    work = queue.enqueue(int, "no number")
    queue.flush(timeout=30)
    ((of_work, error),) = told
    assert of_work is work
    assert isinstance(error, ValueError)
    unraisable: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)
    queue = ClusterQueue(client)
    queue.enqueue(int, "no number")
    queue.flush(timeout=30)
    assert unraisable[0].exc_type is ValueError


def test_arguments_are_passed_on(client: Client) -> None:
    queue = ClusterQueue(client)
    three = queue.submit(int, "3")
    assert queue.submit(_echo, three, [three], key=three).result(timeout=20) == (3, [3], 3)
    assert iowq.dask.submit(client, _echo, 1, [2], key=3).result(timeout=20) == (1, [2], 3)
    queue.enqueue(_echo, 1, [2], key=3)
    queue.flush(timeout=30)


def _echo(first: int, second: list[int], *, key: int) -> tuple[int, list[int], int]:
    return first, second, key
