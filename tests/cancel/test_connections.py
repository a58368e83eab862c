"""A connection never answers for another query, though cancel has ended one on it."""

from __future__ import annotations

import contextlib
import functools
import gc
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import psycopg_pool
import pytest
import sqlalchemy
import urllib3

import iowq
from servers import Server, query
from support import DEADLINE, Install, cancel_blocked, wait_until

POLICIES = pytest.mark.parametrize("policy", ["blocked", "anywhere"])


# ---- SQLAlchemy's pool, of one connection


def _engine(name: str, postgresql: str, mariadb: str) -> sqlalchemy.Engine:
    my = {"unix_socket": mariadb, "user": "root"}
    arguments: dict[str, tuple[str, dict[str, Any]]] = {
        "psycopg2": ("postgresql+psycopg2://test@/postgres", {"host": postgresql}),
        "psycopg": ("postgresql+psycopg://test@/postgres", {"host": postgresql}),
        "mysql.connector": ("mysql+mysqlconnector://", {"use_pure": True, **my}),
        "mysqlclient": ("mysql+mysqldb://", my),
        "pymysql": ("mysql+pymysql://", my),
    }
    url, connect_args = arguments[name]
    return sqlalchemy.create_engine(
        url, pool_size=1, max_overflow=0, pool_timeout=DEADLINE, connect_args=connect_args
    )


def _ask(engine: sqlalchemy.Engine, number: int, seconds: float) -> int:
    sleep = "pg_sleep" if "postgresql" in str(engine.url) else "sleep"
    text = f"select {number} from (select {sleep}({seconds})) as slept"
    with engine.connect() as connection:
        return int(connection.execute(sqlalchemy.text(text)).scalar_one())


def _wait_until_begun(work: iowq.Work) -> None:
    """It may have ended by then: it doesn't take long."""
    wait_until(lambda: work.running() or work.done())


@POLICIES
@pytest.mark.parametrize(
    "name", ["psycopg2", "psycopg", "mysql.connector", "mysqlclient", "pymysql"]
)
def test_the_next_user_of_a_pool_gets_its_own_answer(
    postgresql: str, mariadb: str, name: str, policy: Any
) -> None:
    """At whatever instant the query before it was cancelled."""
    engine = _engine(name, postgresql, mariadb)
    assert _ask(engine, 0, 0) == 0
    with iowq.WorkQueue(1, interrupt=policy) as wq:
        for number in range(1, 41):
            work = wq.enqueue(_ask, engine, -number, 0.05)
            _wait_until_begun(work)
            time.sleep(number / 1000)
            wq.cancel(work)
            wait_until(work.done)
            gc.collect()  # SQLAlchemy 2.0 gives psycopg's back only then: its rollback has failed
            with contextlib.suppress(sqlalchemy.exc.DBAPIError):  # then it is another connection
                assert _ask(engine, number, 0) == number
            assert _ask(engine, number, 0) == number
    engine.dispose()


# ---- whose sockets


@pytest.fixture
def rules() -> Iterator[None]:
    """What a test adds to the table is removed."""
    from iowq._cancel.connections import RULES

    before = dict(RULES)
    yield
    RULES.clear()
    RULES.update(before)


def _read(sock: socket.socket) -> bytes:
    return sock.recv(1)


@pytest.mark.usefixtures("rules")
def test_others_connections_are_shut_down(install: Install) -> None:
    """Unless they are named, or it is the user's own code that reads."""
    reads = "def read(sock): return sock.recv(1)"
    kept, dropped = install(reads), install(reads)
    iowq.shut_down_after_cancel(kept.__name__, False)
    for read, is_open in ((_read, True), (kept.read, True), (dropped.read, False)):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            assert isinstance(cancel_blocked(functools.partial(read, ours)), iowq.Cancelled)
            theirs.settimeout(DEADLINE)
            if is_open:
                theirs.send(b"x")
                assert ours.recv(1) == b"x"
            else:
                assert theirs.recv(1) == b""
                assert ours.recv(1) == b""


def test_a_listening_socket_goes_on(install: Install) -> None:
    others = install("def accept(sock): return sock.accept()")
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert isinstance(cancel_blocked(lambda: others.accept(server)), iowq.Cancelled)
        with socket.create_connection(server.getsockname()):
            server.accept()[0].close()


@pytest.mark.parametrize("library", [3, b"libpq", None])
def test_names_are_checked(library: Any) -> None:
    with pytest.raises(TypeError, match="library"):
        iowq.shut_down_after_cancel(library)


# ---- those who wait for a connection


def test_who_waits_for_a_psycopg_pool_is_forgotten(postgresql: str) -> None:
    """The next connection isn't given to somebody who has gone."""
    conninfo = f"host={postgresql} user=test dbname=postgres"
    with psycopg_pool.ConnectionPool(conninfo, min_size=1, max_size=1) as pool:
        with pool.connection() as held:
            error = cancel_blocked_in_wait(lambda: pool.getconn(timeout=60))
            assert isinstance(error, psycopg_pool.PoolTimeout)
            assert query(held, "select 1") == (1,)
        for _ in range(3):
            with pool.connection(timeout=DEADLINE) as connection:
                assert query(connection, "select 2") == (2,)
        assert pool.get_stats().get("requests_waiting", 0) == 0


def test_who_waits_for_a_urllib3_pool_is_forgotten(http: Server) -> None:
    """No slot is given back that wasn't taken."""
    host, port = http.server_address[:2]
    if http.certificate:
        pool: Any = urllib3.HTTPSConnectionPool(
            str(host), port, maxsize=1, block=True, ca_certs=http.certificate
        )
    else:
        pool = urllib3.HTTPConnectionPool(str(host), port, maxsize=1, block=True)
    with closing(pool):
        held = pool._get_conn()
        error = cancel_blocked_in_wait(lambda: pool.request("GET", "/", pool_timeout=60))
        assert isinstance(error, urllib3.exceptions.EmptyPoolError)
        assert pool.pool.qsize() == 0
        pool._put_conn(held)
        assert pool.request("GET", "/").data == b"still"
        assert pool.pool.qsize() == 1


def cancel_blocked_in_wait(call: Callable[[], object]) -> BaseException:
    """Cancels a work that waits for another thread, and returns what it ended with."""
    errors: list[BaseException] = []

    def work() -> None:
        try:
            call()
        except BaseException as error:
            errors.append(error)
            raise

    with iowq.WorkQueue(1) as wq:
        running = wq.enqueue(work)
        wait_until(lambda: any("futex" in (w.blocked_in or "") for w in wq.workers() if w.work))
        time.sleep(0.01)
        begun = time.monotonic()
        assert wq.cancel(running) is iowq.Cancel.RUNNING
        wq.flush(DEADLINE)
        assert time.monotonic() - begun < 10
        assert running.cancelled()
    return errors[0]
