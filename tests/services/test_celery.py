"""What a Celery worker does with iowq's pool, on a real Redis and a real RabbitMQ."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Any

import pytest
from celery.exceptions import SoftTimeLimitExceeded, TaskRevokedError, TimeLimitExceeded

from support import wait_until

if TYPE_CHECKING:
    from celery.result import AsyncResult

    from celery_workers import Client, Worker

pytest_plugins = ["celery_fixtures"]

WAYS = ["sleep", "recv", "lock", "event", "compute", "child"]
REVOKED = "revoked terminated=True expired=False"
NEVER_RUN = "revoked terminated=False expired=False"


def _signals(client: Client, result: AsyncResult[Any]) -> list[str]:
    return sorted(client.notes(f"signals {result.id}"))


def _assert_it_goes_on(client: Client, worker: Worker) -> None:
    assert client.send("add", 1, 2).get(timeout=10) == 3
    wait_until(lambda: not worker.active())


# ---- revoke


@pytest.mark.parametrize("way", [*WAYS, "swallow"])
@pytest.mark.parametrize("name", ["go", "go_with_retries", "go_acked_late"])
def test_revoke_ends_a_task_that_runs(client: Client, worker: Worker, name: str, way: str) -> None:
    result = client.begin(name, way)
    wait_until(lambda: result.id in worker.active())
    client.ask_for_the_end(result)
    client.wait_for(result, "cleaned up")
    assert client.notes(result.id) == ["begun", "Cancelled", "cleaned up"]
    with pytest.raises(TaskRevokedError):
        result.get(timeout=10)
    wait_until(lambda: len(_signals(client, result)) >= 2)
    assert _signals(client, result) == ["postrun None", REVOKED]
    _assert_it_goes_on(client, worker)
    assert str(result.state) == "REVOKED"


def test_revoke_of_an_unknown_task(client: Client, worker: Worker) -> None:
    answer = worker.control("revoke", task_id="no such task", terminate=True)
    assert answer == {"ok": "terminate: tasks unknown"}
    _assert_it_goes_on(client, worker)


@pytest.mark.parametrize("terminate", [True, False])
def test_revoke_of_a_pending_task(client: Client, worker: Worker, terminate: bool) -> None:
    gate = f"gate {time.monotonic_ns()}"
    holders = [client.begin("hold", gate) for _ in range(8)]
    pending = client.send("go", "sleep")
    wait_until(lambda: pending.id in {task["id"] for task in worker.inspect("reserved")})
    client.app.control.revoke(pending.id, terminate=terminate)
    if not terminate:
        wait_until(lambda: pending.id in worker.inspect("revoked"))
        client.push(gate, *"12345678")
    with pytest.raises(TaskRevokedError):
        pending.get(timeout=10)
    wait_until(lambda: _signals(client, pending))
    assert _signals(client, pending) == [REVOKED if terminate else NEVER_RUN]
    client.push(gate, *"12345678")
    assert [holder.get(timeout=10) for holder in holders] == ["done"] * 8
    assert client.notes(pending.id) == []
    _assert_it_goes_on(client, worker)


def test_an_expired_task_does_not_run(client: Client, worker: Worker) -> None:
    gate = f"gate {time.monotonic_ns()}"
    holders = [client.begin("hold", gate) for _ in range(8)]
    pending = client.send("go", "sleep", expires=0.1)
    time.sleep(0.15)
    client.push(gate, *"12345678")
    with pytest.raises(TaskRevokedError):
        pending.get(timeout=10)
    assert [holder.get(timeout=10) for holder in holders] == ["done"] * 8
    assert client.notes(pending.id) == []
    _assert_it_goes_on(client, worker)


def test_revoke_of_tasks_that_are_ending(client: Client, worker: Worker) -> None:
    """Each ends in one way or the other, and the worker is none the worse."""
    chance = random.Random(1)
    results = []
    for _ in range(100):
        results.append(client.send("add", 1, 2))
        time.sleep(chance.uniform(0, 0.004))
        client.ask_for_the_end(results[-1])
    for result in results:
        try:
            assert result.get(timeout=10) == 3
        except TaskRevokedError:
            assert str(result.state) == "REVOKED"
    _assert_it_goes_on(client, worker)


@pytest.mark.parametrize("broker", ["redis"], indirect=True)
def test_thousands_of_revokes_at_once(client: Client, worker: Worker) -> None:
    running = [client.begin("go", WAYS[i % 5]) for i in range(8)]
    unknown = [f"unknown {i}" for i in range(300)]
    begun = time.monotonic()
    client.app.control.revoke([*unknown, *(task.id for task in running)], terminate=True)
    for result in running * 100:
        client.app.control.revoke(result.id, terminate=True)
    for result in running:
        client.wait_for(result, "cleaned up")
    assert time.monotonic() - begun < 20
    _assert_it_goes_on(client, worker)
    assert [result.state for result in running] == ["REVOKED"] * 8


def test_what_ended_tasks_were_saying_disturbs_no_others(client: Client, worker: Worker) -> None:
    """They share connections to the broker and the backend."""
    chance = random.Random(2)
    for _ in range(8):
        results = [client.begin("publish") for _ in range(2)]
        time.sleep(chance.uniform(0, 0.05))
        client.ask_for_the_end(*results)
        for result in results:
            client.wait_for(result, "cleaned up")
            assert client.notes(result.id) == ["begun", "cleaned up"]
    _assert_it_goes_on(client, worker)


# ---- time limits


@pytest.mark.parametrize("way", WAYS)
def test_soft_limit(client: Client, worker: Worker, way: str) -> None:
    result = client.begin("go", way, soft_time_limit=0.2)
    with pytest.raises(SoftTimeLimitExceeded):
        result.get(timeout=10)
    assert client.notes(result.id) == ["begun", "SoftTimeLimitExceeded", "cleaned up"]
    wait_until(lambda: len(_signals(client, result)) >= 2)
    assert _signals(client, result) == ["failure SoftTimeLimitExceeded", "postrun FAILURE"]
    assert f"Soft time limit (0.2s) exceeded for celery_tasks.go[{result.id}]" in worker.log()


@pytest.mark.parametrize("way", WAYS)
def test_a_task_may_take_the_hint(client: Client, worker: Worker, way: str) -> None:
    result = client.begin("take_hint", way, soft_time_limit=0.1)
    assert result.get(timeout=10) == "cleaned up in time"
    _assert_it_goes_on(client, worker)


@pytest.mark.parametrize("way", WAYS)
def test_hard_limit(client: Client, worker: Worker, way: str) -> None:
    result = client.begin("go", way, time_limit=0.2)
    with pytest.raises(TimeLimitExceeded):
        result.get(timeout=10)
    assert client.notes(result.id) == ["begun", "HardLimitReached", "cleaned up"]
    wait_until(lambda: len(_signals(client, result)) >= 2)
    assert _signals(client, result) == ["failure TimeLimitExceeded", "postrun None"]
    _assert_it_goes_on(client, worker)


def test_a_task_that_swallows_the_soft_limit_is_ended(client: Client, worker: Worker) -> None:
    result = client.begin("go", "swallow", soft_time_limit=0.1, time_limit=0.3)
    with pytest.raises(TimeLimitExceeded):
        result.get(timeout=10)
    assert client.notes(result.id) == ["begun", "HardLimitReached", "cleaned up"]
    assert "SoftTimeLimitExceeded" in client.notes("swallowed")
    _assert_it_goes_on(client, worker)


def test_what_timed_out_may_be_delivered_again(client: Client, worker: Worker) -> None:
    """``acks_late`` without ``acks_on_failure_or_timeout``."""
    result = client.begin("go_once", "recv", time_limit=0.2)
    wait_until(lambda: client.app.AsyncResult(result.id).state == "SUCCESS")  # others keep FAILURE
    assert client.notes(result.id) == ["begun", "HardLimitReached", "cleaned up"]
    _assert_it_goes_on(client, worker)


def test_the_limit_of_a_task_that_cannot_be_ended(client: Client, worker: Worker) -> None:
    """It is told, and the task goes on."""
    gate = f"gate {time.monotonic_ns()}"
    result = client.begin("go_on_and_on", gate, time_limit=0.1)
    with pytest.raises(TimeLimitExceeded):
        result.get(timeout=10)
    assert "goes on after its hard time limit" in worker.log()
    client.push(gate, "end")
    wait_until(lambda: "postrun None" in _signals(client, result))
    assert _signals(client, result) == ["failure TimeLimitExceeded", "postrun None"]
    assert isinstance(result.result, TimeLimitExceeded)


@pytest.mark.parametrize(
    ("soft", "hard", "expected"),
    [
        (0, 0, None),
        (0, 0.2, TimeLimitExceeded),
        (0.2, 0, SoftTimeLimitExceeded),
        (-1, None, SoftTimeLimitExceeded),
        (None, -1, TimeLimitExceeded),
        (-1, -1, TimeLimitExceeded),
        (0.2, 0.2, TimeLimitExceeded),
        (5, 0.2, TimeLimitExceeded),
        ("0.2", "x", SoftTimeLimitExceeded),
    ],
)
def test_limits(
    client: Client,
    worker: Worker,
    soft: Any,
    hard: Any,
    expected: type[Exception] | None,
) -> None:
    result = client.send("go", "sleep", soft_time_limit=soft, time_limit=hard)
    if expected is None:
        wait_until(lambda: client.notes(result.id) == ["begun"])
        client.ask_for_the_end(result)
        expected = TaskRevokedError
    with pytest.raises(expected):
        result.get(timeout=10)
    _assert_it_goes_on(client, worker)


# ---- what else Celery promises


def test_retries(client: Client) -> None:
    result = client.send("retry", headers={"iowq_key": "it"})
    assert result.get(timeout=10) == 2
    assert client.notes(result.id) == ["try 0 of it", "try 1 of it", "try 2 of it"]
    wait_until(lambda: len(_signals(client, result)) == 5)
    assert _signals(client, result) == ["postrun RETRY"] * 2 + ["postrun SUCCESS"] + ["retry"] * 2


def test_failure(client: Client) -> None:
    result = client.send("fail")
    with pytest.raises(ValueError, match="on purpose"):
        result.get(timeout=10)
    wait_until(lambda: len(_signals(client, result)) == 2)
    assert _signals(client, result) == ["failure ValueError", "postrun FAILURE"]


def test_a_task_that_exits(client: Client, worker: Worker) -> None:
    """It fails as it does with prefork, where it takes its process along."""
    result = client.send("leave")
    with pytest.raises(Exception, match="Worker exited prematurely: exitcode 3"):
        result.get(timeout=10)
    _assert_it_goes_on(client, worker)


def test_tasks_of_a_key_run_in_order(client: Client) -> None:
    names = [f"{name} {time.monotonic_ns()}" for name in "abc"]
    keys: list[Any] = [names[0], [names[1], 1], {"name": names[2]}]
    results = [
        client.send("append", name, number, headers={"iowq_key": key})
        for number in range(20)
        for name, key in zip(names, keys, strict=True)
    ]
    for result in results:
        result.get(timeout=10)
    for name in names:
        assert client.notes(f"order of {name}") == [str(number) for number in range(20)]


def test_those_of_a_key_keep_no_others_from_running(client: Client) -> None:
    gate = f"gate {time.monotonic_ns()}"
    holder, *waiting = [client.send("hold", gate, headers={"iowq_key": "held"}) for _ in range(8)]
    wait_until(lambda: client.notes(holder.id) == ["begun"])
    assert client.send("add", 1, 2).get(timeout=10) == 3
    assert not any(client.notes(result.id) for result in waiting)
    client.push(gate, *"12345678")
    assert [result.get(timeout=10) for result in [holder, *waiting]] == ["done"] * 8


def test_the_pool_grows_and_shrinks(client: Client, worker: Worker) -> None:
    def size() -> int:
        return int(worker.inspect("stats")["pool"]["max-concurrency"])

    assert worker.control("pool_grow", n=2) == {"ok": "pool will grow"}
    assert size() == 10
    gate = f"gate {time.monotonic_ns()}"
    holders = [client.begin("hold", gate) for _ in range(10)]
    assert worker.active() == {holder.id for holder in holders}
    assert "10 workers are busy" in worker.control("pool_shrink", n=2)["error"]
    client.push(gate, *"1234567890")
    assert [holder.get(timeout=10) for holder in holders] == ["done"] * 10
    wait_until(lambda: not worker.active())
    assert worker.control("pool_shrink", n=2) == {"ok": "pool will shrink"}
    assert size() == 8


# ---- what tasks may do


@pytest.mark.parametrize("returns", [False, True])
def test_a_task_that_forks(client: Client, worker: Worker, returns: bool) -> None:
    result = client.send("fork", returns)
    assert result.get(timeout=10) == (70 if returns else 7)
    wait_until(lambda: _signals(client, result) == ["postrun SUCCESS"])
    _assert_it_goes_on(client, worker)


def test_a_task_that_starts_a_thread(client: Client, worker: Worker) -> None:
    """The thread is no part of the task: who ends the task leaves it alone."""
    result = client.begin("start_a_thread")
    client.ask_for_the_end(result)
    wait_until(lambda: client.notes(result.id) == ["begun", "the thread went on"])
    _assert_it_goes_on(client, worker)
