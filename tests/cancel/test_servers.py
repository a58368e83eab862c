"""Cancel of real clients that wait for real servers, which the tests start."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from contextlib import closing
from typing import Any

import psycopg
import psycopg2
import pycurl
import pytest
import redis
import requests
from requests.adapters import HTTPAdapter

import iowq
from servers import Server, connect, connect_redis, query, serving
from support import (
    DEADLINE,
    cancel_blocked,
    silent_server,
    wait_until,
)

# ---- PostgreSQL


def _server_goes_on(postgresql: str, backend: int) -> bool:
    """Also shows that new connections work."""
    text = f"select count(*) from pg_stat_activity where pid = {backend} and state = 'active'"
    with closing(connect(psycopg, postgresql)) as connection:
        return bool(query(connection, text)[0])


both_psycopgs = pytest.mark.parametrize("library", [psycopg, psycopg2])


@both_psycopgs
def test_postgresql_query(postgresql: str, library: Any) -> None:
    """The server doesn't notice."""
    with closing(connect(library, postgresql)) as connection:
        backend = connection.info.backend_pid
        error = cancel_blocked(lambda: query(connection, "select pg_sleep(60)"))
    assert isinstance(error, (library.Error, OSError, iowq.Cancelled))
    assert _server_goes_on(postgresql, backend)
    with closing(connect(library, postgresql)) as connection:
        assert query(connection, "select 1") == (1,)


@both_psycopgs
def test_postgresql_query_that_tells_the_server(postgresql: str, library: Any) -> None:
    """Clean-up has a second for itself, and this is enough for the library's own cancel."""
    with closing(connect(library, postgresql)) as connection:
        backend = connection.info.backend_pid

        def ask() -> None:
            try:
                query(connection, "select pg_sleep(60)")
            except BaseException:
                with contextlib.suppress(library.Error):  # psycopg2's is closed by now
                    connection.cancel()
                raise

        error = cancel_blocked(ask)
        assert isinstance(error, (library.Error, OSError, iowq.Cancelled))
        if library is psycopg:
            wait_until(lambda: not _server_goes_on(postgresql, backend))


@both_psycopgs
def test_postgresql_connect_to_a_silent_server(library: Any) -> None:
    with silent_server() as (host, port):
        error = cancel_blocked(lambda: library.connect(host=host, port=port))
    assert isinstance(error, (library.OperationalError, OSError, iowq.Cancelled))


@both_psycopgs
def test_postgresql_connection_gives_no_other_querys_answer(postgresql: str, library: Any) -> None:
    with (
        closing(connect(library, postgresql)) as connection,
        closing(connect(psycopg, postgresql)) as holder,
    ):
        query(holder, "select pg_advisory_lock(1)")
        cancel_blocked(lambda: query(connection, "select 'first' from pg_advisory_lock(1)"))
        query(holder, "select pg_advisory_unlock(1)")
        with contextlib.suppress(library.Error):
            assert query(connection, "select 'second'") == ("second",)


# ---- Redis


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
    with (
        closing(connect_redis(redis_socket)) as client,
        closing(connect_redis(redis_socket)) as other,
    ):
        error = cancel_blocked(lambda: wait(client))
        assert isinstance(error, iowq.Cancelled)
        assert client.ping()
        wait_until(lambda: other.info("clients")["blocked_clients"] == 0)
        wait_until(lambda: other.pubsub_numsub("silent") == [(b"silent", 0)])


def test_redis_with_retries(redis_socket: str) -> None:
    """The client tries again, and that isn't given a grace period of its own."""
    with closing(redis.Redis(unix_socket_path=redis_socket)) as client:
        error = cancel_blocked(lambda: client.blpop(["empty"]))
        assert isinstance(error, iowq.Cancelled)
        assert client.ping()


# ---- HTTP


def _get_by_requests(server: Server, path: str) -> bytes:
    return requests.get(server.url + path, verify=server.certificate).content


def _get_by_requests_with_timeout(server: Server, path: str) -> bytes:
    return requests.get(server.url + path, verify=server.certificate, timeout=60).content


def _get_by_pycurl(server: Server, path: str) -> bytes:
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
        (_get_by_requests, iowq.Cancelled),
        (_get_by_requests_with_timeout, iowq.Cancelled),
        (_get_by_pycurl, pycurl.error),
    ],
)
def test_http(http: Server, get: Callable[[Server, str], bytes], kind: type[BaseException]) -> None:
    """The client closes the connection, and so the server knows."""
    error = cancel_blocked(
        lambda: get(http, "/never"), lambda: http.received.acquire(blocking=False)
    )
    assert isinstance(error, kind)
    assert http.abandoned.acquire(timeout=DEADLINE)
    assert get(http, "/") == b"still"


def test_requests_with_retries(http: Server) -> None:
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
    with serving(Server()) as server, silent_server() as address, closing(pycurl.Curl()) as curl:
        curl.setopt(pycurl.URL, "http://{}:{}/".format(*address))
        error = cancel_blocked(curl.perform)
        assert isinstance(error, pycurl.error)
        assert error.args[0] == pycurl.E_BAD_FUNCTION_ARGUMENT
        curl.setopt(pycurl.URL, server.url)
        assert curl.perform_rs() == "still"
