"""Cancel of real clients that wait for real servers, which the tests start."""

from __future__ import annotations

import contextlib
import errno
import io
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
from typing import Any

import psycopg
import psycopg2
import pycurl
import pytest
import redis
import requests
from redis.backoff import NoBackoff
from redis.retry import Retry
from requests.adapters import HTTPAdapter

import iowq
from support import (
    DEADLINE,
    cancel_blocked,
    make_certificate,
    silent_server,
    wait_until,
)

# ---- the servers


def _program(name: str) -> str:
    """Debian keeps PostgreSQL's programs, but for the clients, out of the path."""
    folders = [*map(str, Path("/usr/lib/postgresql").glob("*/bin")), os.environ["PATH"]]
    found = shutil.which(name, path=os.pathsep.join(folders))
    assert found, f"{name} is not installed; see tests/packages.txt"
    return found


@contextmanager
def _running(command: list[str], folder: Path, answers: Callable[[], object]) -> Iterator[None]:
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
            server.send_signal(signal.SIGINT)  # PostgreSQL too ends at once, whoever is connected
            server.wait(DEADLINE)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Its name is short enough for a socket, and other users may enter it."""
    with tempfile.TemporaryDirectory(prefix="iowq-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture(scope="module")
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
        with contextlib.suppress(psycopg.OperationalError), closing(_connect(psycopg, str(home))):
            return True
        return False

    with _running([*as_user, *serve, "-c", "fsync=off"], home, answers):
        yield str(home)


@pytest.fixture(scope="module")
def redis_socket(folder: Path) -> Iterator[str]:
    path = str(folder / "redis.socket")
    command = [_program("redis-server"), "--port", "0", "--unixsocket", path, "--save", ""]

    def answers() -> bool:
        with contextlib.suppress(redis.ConnectionError), closing(_redis(path)) as client:
            return bool(client.ping())
        return False

    with _running(command, folder, answers):
        yield path


class _Handler(BaseHTTPRequestHandler):
    server: _Server

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


class _Server(ThreadingHTTPServer):
    """Answers every request but those for /never."""

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
def _serving(server: _Server) -> Iterator[_Server]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    with server:
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(params=["http", "https"])
def http(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[_Server]:
    server = _Server()
    if request.param == "https":
        server.use_tls(tmp_path)
    with _serving(server):
        yield server


# ---- PostgreSQL


def _connect(library: Any, host: str) -> Any:
    connection = library.connect(host=host, user="test", dbname="postgres")
    connection.autocommit = True
    return connection


def _query(connection: Any, query: str) -> Any:
    cursor = connection.cursor()
    cursor.execute(query)
    return cursor.fetchone()


def _server_goes_on(postgresql: str, backend: int) -> bool:
    """Also shows that new connections work."""
    query = f"select count(*) from pg_stat_activity where pid = {backend} and state = 'active'"
    with closing(_connect(psycopg, postgresql)) as connection:
        return bool(_query(connection, query)[0])


both_psycopgs = pytest.mark.parametrize("library", [psycopg, psycopg2])


@both_psycopgs
def test_postgresql_query(postgresql: str, library: Any) -> None:
    """The server doesn't notice."""
    with closing(_connect(library, postgresql)) as connection:
        error = cancel_blocked(lambda: _query(connection, "select pg_sleep(60)"))
        backend = connection.info.backend_pid
    assert isinstance(error, (library.Error, OSError))
    assert os.strerror(errno.ECANCELED) in str(error)
    assert _server_goes_on(postgresql, backend)
    with closing(_connect(library, postgresql)) as connection:
        assert _query(connection, "select 1") == (1,)


@both_psycopgs
def test_postgresql_query_that_tells_the_server(postgresql: str, library: Any) -> None:
    """Clean-up has a second for itself, and this is enough for the library's own cancel."""
    with closing(_connect(library, postgresql)) as connection:

        def query() -> None:
            try:
                _query(connection, "select pg_sleep(60)")
            except BaseException:
                connection.cancel()
                raise

        error = cancel_blocked(query)
        assert isinstance(error, (library.Error, OSError))
        wait_until(lambda: not _server_goes_on(postgresql, connection.info.backend_pid))


@both_psycopgs
def test_postgresql_connect_to_a_silent_server(library: Any) -> None:
    with silent_server() as (host, port):
        error = cancel_blocked(lambda: library.connect(host=host, port=port))
    assert isinstance(error, (library.OperationalError, OSError))


@pytest.mark.parametrize(
    "library",
    [
        psycopg,
        pytest.param(
            psycopg2,
            marks=pytest.mark.xfail(
                reason="libpq takes the query for done: such a connection must be closed",
                strict=True,
            ),
        ),
    ],
)
def test_postgresql_connection_gives_no_other_querys_answer(postgresql: str, library: Any) -> None:
    with (
        closing(_connect(library, postgresql)) as connection,
        closing(_connect(psycopg, postgresql)) as holder,
    ):
        _query(holder, "select pg_advisory_lock(1)")
        cancel_blocked(lambda: _query(connection, "select 'first' from pg_advisory_lock(1)"))
        _query(holder, "select pg_advisory_unlock(1)")
        with contextlib.suppress(library.Error):
            assert _query(connection, "select 'second'") == ("second",)


# ---- Redis


def _redis(path: str) -> redis.Redis:
    """Without the ten retries that are the default."""
    return redis.Redis(unix_socket_path=path, retry=Retry(NoBackoff(), 0), socket_timeout=None)


def _wait_for_item(client: redis.Redis) -> object:
    return client.blpop(["empty"])


def _wait_for_message(client: redis.Redis) -> object:
    untyped: Any = client  # pubsub is
    with untyped.pubsub() as channel:
        channel.subscribe("silent")
        return list(channel.listen())


@pytest.mark.parametrize("wait", [_wait_for_item, _wait_for_message])
def test_redis(redis_socket: str, wait: Callable[[redis.Redis], object]) -> None:
    """The client closes the connection, and so the server knows."""
    with closing(_redis(redis_socket)) as client, closing(_redis(redis_socket)) as other:
        error = cancel_blocked(lambda: wait(client))
        assert isinstance(error, redis.ConnectionError)
        assert isinstance(error.__cause__ or error.__context__, OSError)
        assert client.ping()
        wait_until(lambda: other.info("clients")["blocked_clients"] == 0)
        wait_until(lambda: other.pubsub_numsub("silent") == [(b"silent", 0)])


def test_redis_with_retries(redis_socket: str) -> None:
    """The client tries again, and that isn't given a grace period of its own."""
    with closing(redis.Redis(unix_socket_path=redis_socket)) as client:
        error = cancel_blocked(lambda: client.blpop(["empty"]))
        assert isinstance(error, (redis.RedisError, OSError, iowq.Cancelled))
        assert client.ping()


# ---- HTTP


def _get_by_requests(server: _Server, path: str) -> bytes:
    return requests.get(server.url + path, verify=server.certificate).content


def _get_by_requests_with_timeout(server: _Server, path: str) -> bytes:
    return requests.get(server.url + path, verify=server.certificate, timeout=60).content


def _get_by_pycurl(server: _Server, path: str) -> bytes:
    answer = io.BytesIO()
    curl = pycurl.Curl()
    with closing(curl):
        curl.setopt(pycurl.URL, server.url + path)
        curl.setopt(pycurl.WRITEDATA, answer)
        if server.certificate:
            curl.setopt(pycurl.CAINFO, server.certificate)
        curl.perform()
    return answer.getvalue()


@pytest.mark.parametrize(
    ("get", "kind"),
    [
        (_get_by_requests, requests.RequestException),
        (_get_by_requests_with_timeout, requests.RequestException),
        (_get_by_pycurl, pycurl.error),
    ],
)
def test_http(http: _Server, get: Callable[[_Server, str], bytes], kind: type[Exception]) -> None:
    """The client closes the connection, and so the server knows."""
    error = cancel_blocked(
        lambda: get(http, "/never"), lambda: http.received.acquire(blocking=False)
    )
    assert isinstance(error, kind)
    assert http.abandoned.acquire(timeout=DEADLINE)
    assert get(http, "/") == b"still"


def test_requests_with_retries(http: _Server) -> None:
    with requests.Session() as session:
        session.mount(http.url, HTTPAdapter(max_retries=10))

        def get(path: str) -> bytes:
            return session.get(http.url + path, verify=http.certificate).content

        error = cancel_blocked(lambda: get("/never"))
        assert isinstance(error, (requests.RequestException, iowq.Cancelled))
        assert get("/") == b"still"


def test_curl_select() -> None:
    """It hides all errors, and loops like this one go on: so they are ended between calls."""
    with silent_server() as address, closing(pycurl.CurlMulti()) as multi:
        curl = pycurl.Curl()
        curl.setopt(pycurl.URL, "http://{}:{}/".format(*address))
        multi.add_handle(curl)

        def perform() -> None:
            while multi.perform()[1]:
                multi.select(60.0)

        assert isinstance(cancel_blocked(perform), iowq.Cancelled)
        multi.remove_handle(curl)
        curl.close()


def test_curl_handle_is_usable_again() -> None:
    """libcurl has no code of its own for the error: it names a bad argument."""
    with _serving(_Server()) as server, silent_server() as address, closing(pycurl.Curl()) as curl:
        curl.setopt(pycurl.URL, "http://{}:{}/".format(*address))
        error = cancel_blocked(curl.perform)
        assert isinstance(error, pycurl.error)
        assert error.args[0] == pycurl.E_BAD_FUNCTION_ARGUMENT
        curl.setopt(pycurl.URL, server.url)
        assert curl.perform_rs() == "still"
