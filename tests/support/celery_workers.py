"""Celery's workers, as processes, and what they talk to."""

from __future__ import annotations

import gc
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import redis
from celery import Celery

from support import DEADLINE, FUTEX, wait_until

if TYPE_CHECKING:
    from celery.result import AsyncResult

POOL = "iowq.celery:TaskPool"
SUPPORT = Path(__file__).parent
#: Seconds that a worker takes to start is the better part of these tests' time.
QUICKLY = ("--without-mingle", "--without-gossip", "--without-heartbeat", "--loglevel=INFO")


class Client:
    """Sends tasks, and asks what has become of them."""

    def __init__(self, broker: str, backend: str, notes: str) -> None:
        self.broker, self.backend, self._notes_path = broker, backend, notes
        self.app = Celery("client", broker=broker, backend=backend, set_as_current=False)
        self._notes = redis.Redis(unix_socket_path=notes, decode_responses=True)

    def reached_by(self, broker: str, **options: Any) -> Client:
        """Returns one that talks to another broker."""
        client = Client(broker, self.backend, self._notes_path)
        client.app.conf.broker_transport_options = options
        return client

    def send(self, name: str, *args: Any, **options: Any) -> AsyncResult[Any]:
        return self.app.send_task(f"celery_tasks.{name}", args, **options)

    def begin(self, name: str, *args: Any, **options: Any) -> AsyncResult[Any]:
        """Returns when the task runs."""
        result = self.send(name, *args, **options)
        self.wait_for(result, "begun")
        return result

    def wait_for(self, result: AsyncResult[Any], note: str) -> None:
        """Returns when the task has noted that."""
        wait_until(lambda: note in self.notes(result.id))

    def notes(self, about: str) -> list[str]:
        """What tasks have noted about something, or about the task of this id."""
        notes: list[str] = self._notes.lrange(about, 0, -1)  # type: ignore[assignment]
        return notes

    def push(self, name: str, *values: str) -> None:
        self._notes.rpush(name, *values)

    def ask_for_the_end(self, *results: AsyncResult[Any]) -> None:
        self.app.control.revoke([result.id for result in results], terminate=True)

    def close(self) -> None:
        """Results that are forgotten talk to the server once more: it must be alive."""
        gc.collect()
        self.app.close()

    def environment(self, **more: str) -> dict[str, str]:
        path = os.pathsep.join([str(SUPPORT), os.environ.get("PYTHONPATH", "")])
        urls = {"IOWQ_BROKER": self.broker, "IOWQ_BACKEND": self.backend}
        return {**os.environ, "PYTHONPATH": path, **urls, "IOWQ_NOTES": self._notes_path, **more}


class Worker:
    """One `celery worker`."""

    def __init__(self, client: Client, name: str, process: subprocess.Popen[bytes], log: Path):
        self.client, self.name, self.process, self._log = client, name, process, log

    def inspect(self, method: str) -> Any:
        """What `celery inspect` says of it."""
        inspect = self.client.app.control.inspect(destination=[self.name], timeout=DEADLINE)
        answer = getattr(inspect, method)()
        assert answer is not None, self.log()
        return answer[self.name]

    def control(self, method: str, **arguments: Any) -> Any:
        """What it answers to a control command."""
        broadcast: Any = self.client.app.control.broadcast
        (answer,) = broadcast(
            method, arguments, destination=[self.name], reply=True, timeout=DEADLINE
        )
        return answer[self.name]

    def active(self) -> set[str]:
        return {task["id"] for task in self.inspect("active")}

    def log(self) -> str:
        return self._log.read_text()

    def signal(self, number: signal.Signals) -> None:
        """Also wakes its event loop, which may heed the signal 10 seconds later only."""
        self.process.send_signal(number)
        self.client.app.control.broadcast("ping", destination=[self.name])

    def wait_until_it_stops(self) -> None:
        """Returns when it waits for its tasks, and begins no more of them."""
        for _ in range(3):  # it may wait for the interpreter's lock
            wait_until(lambda: self._call().startswith(f"{FUTEX} "))
            time.sleep(0.01)

    def _call(self) -> str:
        return Path(f"/proc/{self.process.pid}/syscall").read_text()

    def wait(self) -> int:
        """Returns its exit status, once it has ended."""
        try:
            return self.process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGUSR1)  # Celery prints all threads' stacks
            wait_until(lambda: "LOCAL VARIABLES" in self.log() or self.process.poll())
            raise AssertionError(self.log()) from None


@contextmanager
def running_worker(
    client: Client, folder: Path, *options: str, pool: str = POOL, **environment: str
) -> Iterator[Worker]:
    name = f"{uuid.uuid4().hex[:8]}@localhost"
    log = folder / f"{name}.log"
    command = [sys.executable, "-m", "celery", "--app", "celery_tasks", "worker", "-n", name]
    environment = client.environment(IOWQ_POOL=pool, **environment)
    with (
        log.open("wb") as output,
        subprocess.Popen(
            [*command, *QUICKLY, *options], stdout=output, stderr=output, env=environment
        ) as process,
    ):
        worker = Worker(client, name, process, log)
        try:
            wait_until(lambda: process.poll() is not None or client.notes(f"ready {name}"))
            assert process.poll() is None, worker.log()
            yield worker
        finally:
            process.kill()


@contextmanager
def running_rabbitmq(folder: Path) -> Iterator[Callable[[], str]]:
    """Starts a node of its own; what it gives waits for it to answer, and returns its URL."""
    home = folder / "rabbitmq"
    home.mkdir()
    port, own_port, names_port = _free_ports(3)
    environment = {
        **os.environ,
        "HOME": str(home),  # for the cookie
        "RABBITMQ_NODENAME": "iowq@localhost",
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_DIST_PORT": str(own_port),
        "ERL_EPMD_PORT": str(names_port),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "ERL_EPMD_RELAXED_COMMAND_CHECK": "1",
        "RABBITMQ_MNESIA_BASE": str(home / "data"),
        "RABBITMQ_LOG_BASE": str(home / "log"),
        "RABBITMQ_LOGS": "-",
        "RABBITMQ_CONFIG_FILE": str(home / "none"),
        "RABBITMQ_CONF_ENV_FILE": str(home / "none"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "none"),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 +sbwt none",
    }
    log = home / "output"
    with (
        log.open("wb") as output,
        subprocess.Popen(
            ["/usr/lib/rabbitmq/bin/rabbitmq-server"],
            env=environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        ) as server,
    ):

        def url() -> str:
            wait_until(lambda: server.poll() is not None or b"startup complete" in log.read_bytes())
            assert server.poll() is None, log.read_text()
            return f"amqp://guest:guest@127.0.0.1:{port}//"

        try:
            yield url
        finally:
            os.killpg(server.pid, signal.SIGKILL)
            subprocess.run(["epmd", "-kill"], env=environment, check=False, capture_output=True)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [server.getsockname()[1] for server in sockets]
    for server in sockets:
        server.close()
    return ports


class Line:
    """A line to a server, which can be cut.

    :param connect: makes a connection to the server.
    :param scheme: with which the line's URL begins.
    """

    def __init__(self, connect: Callable[[], socket.socket], scheme: str) -> None:
        self._connect = connect
        self._server = socket.create_server(("127.0.0.1", 0))
        host, port = self._server.getsockname()
        self.url = f"{scheme}{host}:{port}/"
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._server.accept()
                pair = client, self._connect()
                self._pairs.append(pair)
                for source, target in (pair, pair[::-1]):
                    threading.Thread(target=_forward, args=(source, target), daemon=True).start()

    def cut(self) -> None:
        """Ends all connections; new ones can be made."""
        for pair in self._pairs:
            _hang_up(*pair)
        self._pairs.clear()

    def close(self) -> None:
        _hang_up(self._server)
        self.cut()


def _forward(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    _hang_up(source, target)


def _hang_up(*sockets: socket.socket) -> None:
    for connected in sockets:
        with suppress(OSError):
            connected.shutdown(socket.SHUT_RDWR)
        connected.close()
