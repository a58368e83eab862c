"""How a Celery worker ends, and what becomes of its tasks; and when its broker goes away."""

from __future__ import annotations

import signal
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from celery.exceptions import TaskRevokedError, TimeLimitExceeded

from celery_workers import POOL, Client, Worker, running_worker
from support import wait_until

if TYPE_CHECKING:
    from celery_workers import Line

pytest_plugins = ["celery_fixtures"]


@pytest.fixture
def queue() -> str:
    """The name of a queue of its own."""
    return f"queue-{uuid.uuid4().hex[:8]}"


def test_warm_shutdown(client: Client, worker: Worker, queue: str, tmp_path: Path) -> None:
    """What runs is finished, and acknowledged; what waits is another worker's."""
    gate = f"gate {queue}"
    with running_worker(client, tmp_path, "--concurrency=2", f"--queues={queue}") as first:
        running = [client.begin("hold_acked_late", gate, queue=queue) for _ in range(2)]
        waiting = [client.send("hold_acked_late", gate, queue=queue) for _ in range(2)]
        wait_until(lambda: len(first.inspect("reserved")) == 2)
        first.signal(signal.SIGTERM)
        first.wait_until_it_stops()
        client.push(gate, "one", "two")
        assert first.wait() == 0, first.log()
    worker.control("add_consumer", queue=queue)
    client.push(gate, "three", "four")
    for result in [*running, *waiting]:
        assert result.get(timeout=10) == "done"
        assert client.notes(result.id) == ["begun", "done"]


@pytest.mark.parametrize(
    ("broker", "numbers"),
    [
        ("redis", [signal.SIGQUIT]),
        ("rabbitmq", [signal.SIGQUIT]),
        # On RabbitMQ a warm shutdown that becomes a cold one may read from the silent broker for
        # ever, whatever the pool: kombu's hub, when it is closed, makes the calls it has left.
        ("redis", [signal.SIGINT] * 2),
    ],
    ids=str,
    indirect=["broker"],
)
def test_cold_shutdown(
    client: Client, worker: Worker, queue: str, tmp_path: Path, numbers: list[signal.Signals]
) -> None:
    """What runs is ended, and delivered again if it was not acknowledged."""
    with running_worker(client, tmp_path, "--concurrency=4", f"--queues={queue}") as first:
        results = [client.begin("go_once", way, queue=queue) for way in ("recv", "compute")]
        acknowledged = client.begin("go", "sleep", queue=queue)
        wait_until(lambda: len(first.active()) == 3)
        for number in numbers:
            first.process.send_signal(number)  # the tasks' ends wake the event loop
            # said once its handler is through: the next Ctrl-C is another's
            wait_until(lambda: "shutdown (MainProcess)" in first.log())
        first.wait()
    for result in [*results, acknowledged]:
        assert client.notes(result.id) == ["begun", "Cancelled", "cleaned up"], first.log()
    worker.control("add_consumer", queue=queue)
    assert [result.get(timeout=10) for result in results] == ["redelivered"] * 2
    assert acknowledged.state == "RETRY"  # as with prefork


def test_soft_shutdown(client: Client, worker: Worker, queue: str, tmp_path: Path) -> None:
    """Tasks have some time to end by themselves."""
    gate = f"gate {queue}"
    options = ["--concurrency=4", f"--queues={queue}"]
    with running_worker(client, tmp_path, *options, IOWQ_SOFT_SHUTDOWN="0.5") as first:
        short = client.begin("hold_acked_late", gate, queue=queue)
        long = client.begin("go_once", "sleep", queue=queue)
        wait_until(lambda: len(first.active()) == 2)
        first.signal(signal.SIGQUIT)
        wait_until(lambda: "Initiating Soft Shutdown" in first.log())
        client.push(gate, "end")
        first.wait()
    assert short.get(timeout=10) == "done"
    assert client.notes(long.id) == ["begun", "Cancelled", "cleaned up"], first.log()
    worker.control("add_consumer", queue=queue)
    assert long.get(timeout=10) == "redelivered"
    assert client.notes(short.id) == ["begun", "done"]


@pytest.mark.parametrize("broker", ["redis"], indirect=True)
def test_hard_shutdown(client: Client, queue: str, tmp_path: Path) -> None:
    """A cold one waits for what can't be ended, until it is told again."""
    with running_worker(client, tmp_path, "--concurrency=2", f"--queues={queue}") as first:
        client.begin("go_on_and_on", "never", queue=queue)
        first.signal(signal.SIGQUIT)
        first.wait_until_it_stops()
        assert first.process.poll() is None
        for _ in range(2):
            first.signal(signal.SIGQUIT)
            wait_until(lambda: "Waiting gracefully" in first.log())
        first.wait()
        assert "are left behind" in first.log()


def test_a_broker_that_goes_away(client: Client, line: Line, queue: str, tmp_path: Path) -> None:
    """Tasks that run go on, but for those that will be delivered again."""
    gate = f"gate {queue}"
    distant = client.reached_by(line.url)
    with running_worker(distant, tmp_path, "--concurrency=4", f"--queues={queue}") as first:
        first.client = client  # by a line of its own
        acknowledged = client.begin("hold", gate, queue=queue)
        again = client.begin("go_once", "sleep", queue=queue)
        wait_until(lambda: len(first.active()) == 2)
        line.cut()
        client.wait_for(again, "cleaned up")
        assert client.notes(again.id) == ["begun", "Cancelled", "cleaned up"]
        assert client.send("add", 1, 2, queue=queue).get(timeout=20) == 3
        assert again.state in ("RETRY", "SUCCESS")
        client.push(gate, "end")
        assert acknowledged.get(timeout=10) == "done"
        wait_until(lambda: not first.active())


@pytest.mark.parametrize("broker", ["redis"], indirect=True)
def test_autoscale(client: Client, queue: str, tmp_path: Path) -> None:
    gate = f"gate {queue}"
    options = ["--pool=custom", "--autoscale=4,1", f"--queues={queue}"]
    environment = {"CELERY_CUSTOM_WORKER_POOL": POOL, "AUTOSCALE_KEEPALIVE": "0.2"}
    with running_worker(client, tmp_path, *options, pool="threads", **environment) as first:

        def size() -> int:
            return int(first.inspect("stats")["pool"]["max-concurrency"])

        assert size() == 1
        results = [client.begin("hold", gate, queue=queue) for _ in range(4)]
        assert size() == 4
        client.push(gate, *"1234")
        assert [result.get(timeout=10) for result in results] == ["done"] * 4
        wait_until(lambda: size() == 1)


@pytest.mark.parametrize("broker", ["redis"], indirect=True)
def test_without_an_event_loop(client: Client, queue: str, tmp_path: Path) -> None:
    """Celery has none for some brokers."""
    folder = str(tmp_path)
    folders = dict.fromkeys(("data_folder_in", "data_folder_out", "control_folder"), folder)
    local = client.reached_by("filesystem://", **folders)
    options = ["--concurrency=4", f"--queues={queue}"]
    with running_worker(local, tmp_path, *options, IOWQ_FOLDER=folder) as first:
        assert local.send("add", 1, 2, queue=queue).get(timeout=10) == 3
        limited = local.send("go", "sleep", queue=queue, time_limit=0.1)
        with pytest.raises(TimeLimitExceeded):
            limited.get(timeout=10)
        running = local.begin("go", "recv", queue=queue)
        local.ask_for_the_end(running)
        with pytest.raises(TaskRevokedError):
            running.get(timeout=10)
        last = local.begin("hold", queue, queue=queue)
        first.signal(signal.SIGTERM)
        first.wait_until_it_stops()
        local.push(queue, "end")
        assert first.wait() == 0, first.log()
        assert last.get(timeout=10) == "done"
    assert local.notes(running.id) == ["begun", "Cancelled", "cleaned up"]
