"""Brokers, and Celery's workers on each, as pytest's fixtures."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest

from celery_workers import Client, Line, Worker, running_rabbitmq, running_worker

BROKERS = ["redis", "rabbitmq"]


@pytest.fixture(scope="session")
def rabbitmq(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], str]]:
    """It takes seconds to start: meanwhile the tests on Redis run."""
    with running_rabbitmq(tmp_path_factory.mktemp("rabbitmq")) as url:
        yield url


@pytest.fixture(scope="session", params=BROKERS)
def broker(request: pytest.FixtureRequest, rabbitmq: Callable[[], str], redis_socket: str) -> str:
    return rabbitmq() if request.param == "rabbitmq" else f"redis+socket://{redis_socket}"


@pytest.fixture(scope="session")
def client(broker: str, redis_socket: str) -> Iterator[Client]:
    client = Client(broker, f"redis+socket://{redis_socket}?virtual_host=1", redis_socket)
    yield client
    client.close()


@pytest.fixture(scope="session")
def worker(client: Client, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """One that all tests use which leave it as it was: up to eight tasks run at once."""
    with running_worker(client, tmp_path_factory.mktemp("worker"), "--concurrency=8") as worker:
        yield worker
        assert worker.process.poll() is None, worker.log()


@pytest.fixture
def line(broker: str, redis_socket: str) -> Iterator[Line]:
    def connect() -> socket.socket:
        if broker.startswith("amqp"):
            host, port = broker.rpartition("@")[2].rstrip("/").split(":")
            return socket.create_connection((host, int(port)))
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(redis_socket)
        return connection

    scheme = "amqp://guest:guest@" if broker.startswith("amqp") else "redis://"
    line = Line(connect, scheme)
    yield line
    line.close()
