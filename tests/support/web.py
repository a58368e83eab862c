"""Real web servers for the examples, and clients that hang up."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import urlencode

import psycopg
import pytest

from servers import Server, serving
from support import DEADLINE, wait_until

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
SITES = ROOT / "tests/web/sites"
#: Seconds that nobody waits for.
SLEEP = 100


class Site:
    """A web server that runs, and what its clients do."""

    def __init__(self, port: int, postgresql: str) -> None:
        self.port = port
        self._database = f"host={postgresql} user=test dbname=postgres"

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE)

    def get(
        self, path: str, connection: http.client.HTTPConnection | None = None, **query: object
    ) -> tuple[int, str]:
        """Returns the status and the answer, by a new connection or by this one."""
        if connection is None:
            with closing(self.connect()) as connection:
                return self.get(path, connection, **query)
        connection.request("GET", _url(path, query))
        with connection.getresponse() as answer:
            return answer.status, answer.read().decode().strip('"')

    def ask(self, path: str, **query: object) -> socket.socket:
        """Sends a request, and returns the connection."""
        client = socket.create_connection(("127.0.0.1", self.port), timeout=DEADLINE)
        client.sendall(f"GET {_url(path, query)} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        return client

    def check(self) -> None:
        """All of its connections to the database answer, and each request has its own answer."""
        titles = [f"title {number}" for number in range(40)]
        with ThreadPoolExecutor(20) as clients:
            answers = clients.map(
                lambda title: self.get("report", title=title, seconds=0.02), titles
            )
            assert list(answers) == [(200, title) for title in titles]

    def events(self, name: str) -> list[str]:
        """What the view that was given this name has noted."""
        return self.get("events", name=name)[1].split(",")

    def queries(self) -> int:
        """How many queries the database runs for the site."""
        with psycopg.connect(self._database, autocommit=True) as connection:
            row = connection.execute(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE application_name = 'site' AND state = 'active'"
            ).fetchone()
        assert row
        return int(row[0])

    def wait_for_queries(self, count: int) -> None:
        wait_until(lambda: self.queries() == count)


def _url(path: str, query: dict[str, object]) -> str:
    return f"/{path}?{urlencode(query)}" if query else f"/{path}"


#: By framework: the server, and its application, which is the example with some views more.
COMMANDS = {
    "fastapi": "-m uvicorn more_fastapi:app --fd {fd} --timeout-graceful-shutdown 10",
    "django": "-m uvicorn more_django:application --fd {fd} --timeout-graceful-shutdown 10",
    "flask": "-m gunicorn more_flask:app --bind fd://{fd} --graceful-timeout 1"
    " --worker-class iowq.gunicorn.Worker --threads 256 --timeout {limit}",
}


@contextmanager
def serve(framework: str, postgresql: str, limit: int) -> Iterator[Site]:
    """Runs a site until the end of the `with`, and checks that it ends by itself then.

    :param postgresql: the folder of the database server's socket.
    :param limit: seconds that a request has.
    """
    environment = {
        **os.environ,
        "PGHOST": postgresql,
        "PGUSER": "test",
        "PGAPPNAME": "site",
        "LIMIT": str(limit),
        "PYTHONPATH": os.pathsep.join([str(EXAMPLES), *filter(None, sys.path)]),
    }
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        port, fd = listener.getsockname()[1], listener.fileno()
        command = COMMANDS[framework].format(fd=fd, limit=limit).split()
        with subprocess.Popen(
            [sys.executable, *command], cwd=SITES, env=environment, pass_fds=[fd]
        ) as process:
            try:
                yield Site(port, postgresql)
            finally:
                process.send_signal(signal.SIGINT)
                try:
                    process.wait(DEADLINE)
                finally:
                    process.kill()
    assert process.returncode in (0, -signal.SIGINT)


@pytest.fixture(scope="session", params=list(COMMANDS))
def framework(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def site(framework: str, postgresql: str) -> Iterator[Site]:
    """A site whose requests have more time than they need."""
    with serve(framework, postgresql, limit=60) as site:
        yield site


@pytest.fixture(scope="session")
def hurried(framework: str, postgresql: str) -> Iterator[Site]:
    """A site whose requests have two seconds, and three where the process has no more, either."""
    with serve(framework, postgresql, limit=3 if framework == "flask" else 2) as site:
        yield site


@pytest.fixture
def other() -> Iterator[Server]:
    """A server that the sites ask."""
    with serving(Server()) as server:
        yield server
