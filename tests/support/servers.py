"""Real servers, which the tests start, as pytest's fixtures."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import ssl
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar

import psycopg
import pymysql
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from support import DEADLINE, make_certificate, wait_until

#: serving() gives what it is given.
AnyServer = TypeVar("AnyServer", bound=ThreadingHTTPServer)


def connect(library: Any, host: str) -> Any:
    connection = library.connect(host=host, user="test", dbname="postgres")
    connection.autocommit = True
    return connection


def query(connection: Any, text: str) -> Any:
    cursor = connection.cursor()
    cursor.execute(text)
    return cursor.fetchone()


def connect_redis(path: str) -> redis.Redis:
    """Without the ten retries that are the default."""
    return redis.Redis(unix_socket_path=path, retry=Retry(NoBackoff(), 0), socket_timeout=None)


def _program(name: str) -> str:
    """Debian keeps PostgreSQL's programs, but for the clients, out of the path."""
    folders = [*map(str, Path("/usr/lib/postgresql").glob("*/bin")), os.environ["PATH"]]
    found = shutil.which(name, path=os.pathsep.join(folders))
    assert found, f"{name} is not installed; see tests/packages.txt"
    return found


@contextmanager
def _running(
    command: list[str],
    folder: Path,
    answers: Callable[[], object],
    stop: signal.Signals = signal.SIGTERM,
) -> Iterator[None]:
    """Runs a server until the end of the `with`.

    :param stop: ends it at once, whoever is connected.
    """
    log = folder / "log"
    with (
        log.open("wb") as output,
        subprocess.Popen(command, cwd=folder, stdout=output, stderr=output) as server,
    ):
        try:
            wait_until(lambda: server.poll() is not None or answers())
            assert server.poll() is None, log.read_text()
            yield
        finally:
            server.send_signal(stop)
            server.wait(DEADLINE)


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    """Its name is short enough for a socket, and other users may enter it."""
    with tempfile.TemporaryDirectory(prefix="iowq-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture(scope="session")
def postgresql(folder: Path) -> Iterator[str]:
    """The folder of the server's socket."""
    home = folder / "postgresql"
    home.mkdir()
    as_user: list[str] = []
    if os.geteuid() == 0:  # the server refuses to run as root
        shutil.chown(home, "postgres", "postgres")
        as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"]
    data = str(home / "data")
    initialize = [_program("initdb"), "-D", data, "--auth=trust", "--username=test", "--no-sync"]
    subprocess.run([*as_user, *initialize], cwd=home, check=True, capture_output=True)
    serve = [_program("postgres"), "-D", data, "-k", str(home), "-c", "listen_addresses="]

    def answers() -> bool:
        with contextlib.suppress(psycopg.OperationalError), closing(connect(psycopg, str(home))):
            return True
        return False

    with _running([*as_user, *serve, "-c", "fsync=off"], home, answers, signal.SIGINT):
        yield str(home)


@pytest.fixture(scope="session")
def redis_socket(folder: Path) -> Iterator[str]:
    path = str(folder / "redis.socket")
    command = [_program("redis-server"), "--port", "0", "--unixsocket", path, "--save", ""]

    def answers() -> bool:
        with contextlib.suppress(redis.ConnectionError), closing(connect_redis(path)) as client:
            return bool(client.ping())
        return False

    with _running(command, folder, answers):
        yield path


@pytest.fixture(scope="session")
def mariadb(folder: Path) -> Iterator[str]:
    """The server's socket."""
    home = folder / "mariadb"
    home.mkdir()
    owner = ["--user=root"] if os.geteuid() == 0 else []
    data, path = f"--datadir={home}/data", str(home / "socket")
    initialize = [_program("mariadb-install-db"), "--no-defaults", data, *owner]
    options = ["--auth-root-authentication-method=normal", "--skip-test-db"]
    subprocess.run([*initialize, *options], check=True, capture_output=True)
    command = [_program("mariadbd"), "--no-defaults", data, *owner, f"--socket={path}"]

    def answers() -> bool:
        with contextlib.suppress(pymysql.OperationalError):
            pymysql.connect(unix_socket=path, user="root").close()
            return True
        return False

    with _running([*command, "--skip-networking"], home, answers):
        yield path


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        if self.path == "/never":
            self.server.received.release()
            with contextlib.suppress(OSError):  # TLS: it may have closed it amid a record
                self.rfile.read(1)  # until the client has closed the connection
            self.server.abandoned.release()
            self.close_connection = True
            return
        self.send_response(200)
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"still")

    def log_message(self, *_args: object) -> None:
        """Nothing."""


class Server(ThreadingHTTPServer):
    """Answers every request but those for /never."""

    request_queue_size = 1000  # clients who come at once needn't try again, seconds later

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.received = threading.Semaphore(0)
        self.abandoned = threading.Semaphore(0)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.certificate: str | None = None

    def use_tls(self, folder: Path) -> None:
        certificate, key = make_certificate(folder)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        # a request's thread shakes hands: a client may have given up, and hold the connection
        self.socket = context.wrap_socket(
            self.socket, server_side=True, do_handshake_on_connect=False
        )
        self.certificate = str(certificate)
        self.url = self.url.replace("http", "https")


@contextmanager
def serving(server: AnyServer) -> Iterator[AnyServer]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    with server:
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(params=["http", "https"])
def http(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    server = Server()
    if request.param == "https":
        server.use_tls(tmp_path)
    with serving(server):
        yield server
