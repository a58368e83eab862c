"""Uses of libraries that are cancelled at random instants: what runs, and what must be sound after.

Each use is a context manager that gives two callables: the work, which goes on for ever, and
a check of what the library shares (a pool, a lock, a connection, a cache) for whoever uses it
next. They are of the thousand packages that are downloaded most.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import io
import itertools
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import iowq

Work = Callable[[], object]
Pair = tuple[Work, Work]


class Places(NamedTuple):
    """The servers, and a folder."""

    postgresql: str
    mariadb: str
    redis: str
    http: str
    folder: Path


class Use(NamedTuple):
    """What a library is used for, and what its users should know."""

    package: str
    what: str
    recipe: str
    prepare: Callable[[Places], AbstractContextManager[Pair]]


USES: list[Use] = []


def use(
    package: str, what: str, recipe: str = ""
) -> Callable[[Callable[[Places], Iterator[Pair]]], None]:
    """Adds a use to the table."""

    def add(function: Callable[[Places], Iterator[Pair]]) -> None:
        USES.append(Use(package, what, recipe, contextmanager(function)))

    return add


def _again(call: Work) -> Work:
    """A work that makes a call for ever."""

    def work() -> None:
        while True:
            call()

    return work


def _equal(call: Work, expected: object) -> Work:
    def check() -> None:
        got = call()
        assert got == expected, (got, expected)

    return check


# ---- clients of servers


@use("requests", "GET with a session")
def _requests(places: Places) -> Iterator[Pair]:
    import requests

    with requests.Session() as session:
        yield (
            _again(lambda: session.get(places.http)),
            lambda: _ok(session.get(places.http).content),
        )


def _ok(content: object) -> None:
    assert content == b"still", content


@use(
    "urllib3",
    "GET, a blocking pool of one",
    "give `pool_timeout`: who waits for the pool sees `EmptyPoolError`",
)
def _urllib3(places: Places) -> Iterator[Pair]:
    import urllib3

    with urllib3.PoolManager(maxsize=1, block=True, timeout=10) as pool:
        get = lambda: pool.request("GET", places.http, pool_timeout=5).data  # noqa: E731
        yield _again(get), lambda: _ok(get())


@use("httpx", "GET with a client")
def _httpx(places: Places) -> Iterator[Pair]:
    import httpx

    with httpx.Client(limits=httpx.Limits(max_connections=2)) as client:
        yield _again(lambda: client.get(places.http)), lambda: _ok(client.get(places.http).content)


@use("aiohttp", "GET in `asyncio.run`")
def _aiohttp(places: Places) -> Iterator[Pair]:
    import aiohttp

    async def get() -> bytes:
        async with aiohttp.ClientSession() as session, session.get(places.http) as answer:
            return await answer.read()

    yield _again(lambda: asyncio.run(get())), lambda: _ok(asyncio.run(get()))


@use("botocore", "S3 requests that fail, and are not tried again")
def _botocore(places: Places) -> Iterator[Pair]:
    import botocore.config
    import botocore.session

    session: Any = botocore.session.get_session()
    config = botocore.config.Config(
        retries={"total_max_attempts": 3}, s3={"addressing_style": "path"}
    )
    client = session.create_client(
        "s3",
        region_name="us-east-1",
        endpoint_url=places.http.rstrip("/"),
        aws_access_key_id="x",
        aws_secret_access_key="y",
        config=config,
    )
    get = lambda: client.get_object(Bucket="b", Key="k")["Body"].read()  # noqa: E731
    with closing(client):
        yield _again(get), lambda: _ok(get())


@use(
    "psycopg",
    "queries on one connection",
    "`with iowq.on_cancel(connection.cancel):` keeps the connection",
)
def _psycopg(places: Places) -> Iterator[Pair]:
    import psycopg
    import psycopg_pool

    conninfo = f"host={places.postgresql} user=test dbname=postgres"
    with psycopg_pool.ConnectionPool(conninfo, min_size=1, max_size=1, timeout=10) as pool:
        numbers = itertools.count()

        def ask() -> None:
            number = next(numbers)
            with pool.connection() as connection:
                row = connection.execute(
                    "select %s::int from pg_sleep(0.002)", (number,)
                ).fetchone()
                assert row == (number,)

        yield _again(ask), _retried(ask, psycopg.Error)


def _retried(call: Work, *errors: type[BaseException]) -> Work:
    """A broken connection is found out by its first use; the pool has another one then."""

    def check() -> None:
        with contextlib.suppress(*errors):
            call()
        call()

    return check


@use(
    "psycopg2",
    "queries on a connection of SQLAlchemy's pool",
    "`with iowq.on_cancel(connection.cancel):`; else its connection is shut down",
)
def _psycopg2(places: Places) -> Iterator[Pair]:
    yield from _sqlalchemy(f"postgresql+psycopg2://test@/postgres?host={places.postgresql}")


@use("sqlalchemy", "an ORM's session on SQLite")
def _sqlite(places: Places) -> Iterator[Pair]:
    import sqlalchemy
    from sqlalchemy.orm import Session, declarative_base, mapped_column

    base: Any = declarative_base()
    row = type(
        "Row",
        (base,),
        {"__tablename__": "rows", "id": mapped_column(sqlalchemy.Integer, primary_key=True)},
    )
    engine = sqlalchemy.create_engine(f"sqlite:///{places.folder}/rows.db")
    base.metadata.create_all(engine)

    def change() -> None:
        with Session(engine) as session, session.begin():
            session.add(row())
            session.flush()
            session.query(row).delete()

    def check() -> None:
        change()
        with Session(engine) as session:
            assert session.query(row).count() == 0

    yield _again(change), check
    engine.dispose()


@use("mysql-connector-python", "queries on a connection of SQLAlchemy's pool")
def _mysql(places: Places) -> Iterator[Pair]:
    yield from _sqlalchemy(f"mysql+mysqlconnector://root@/?unix_socket={places.mariadb}")


@use("pymysql", "queries on a connection of SQLAlchemy's pool")
def _pymysql(places: Places) -> Iterator[Pair]:
    yield from _sqlalchemy(f"mysql+pymysql://root@/?unix_socket={places.mariadb}")


def _sqlalchemy(url: str) -> Iterator[Pair]:
    import sqlalchemy

    engine = sqlalchemy.create_engine(url, pool_size=1, max_overflow=0, pool_timeout=10)
    numbers = itertools.count()

    def ask() -> None:
        number = next(numbers)
        with engine.connect() as connection:
            got = connection.execute(sqlalchemy.text(f"select {number}")).scalar_one()
        assert got == number, (got, number)

    yield _again(ask), _retried(ask, sqlalchemy.exc.DBAPIError)
    engine.dispose()


@use("redis", "commands, a blocking pool of one")
def _redis(places: Places) -> Iterator[Pair]:
    import redis

    pool = redis.BlockingConnectionPool(
        connection_class=redis.UnixDomainSocketConnection,
        path=places.redis,
        max_connections=1,
        timeout=10,
    )
    numbers = itertools.count()
    with closing(redis.Redis(connection_pool=pool)) as client:

        def ask() -> None:
            number = next(numbers)
            client.set("key", number)
            assert client.get("key") == str(number).encode()

        yield _again(ask), ask


# ---- what shares locks, or the process' state


@use("tqdm", "a progress bar")
def _tqdm(_places: Places) -> Iterator[Pair]:
    from tqdm import tqdm

    def work() -> None:
        for _ in tqdm(itertools.count(), mininterval=0, file=io.StringIO()):
            pass

    def check() -> None:
        list(tqdm(range(3), file=io.StringIO()))

    yield work, check


@use("rich", "a progress bar that redirects `sys.stdout`")
def _rich(_places: Places) -> Iterator[Pair]:
    from rich.console import Console
    from rich.progress import track

    before = sys.stdout

    def work() -> None:
        while True:
            for _ in track(range(10), console=Console(file=io.StringIO(), force_terminal=True)):
                time.sleep(0.0005)

    def check() -> None:
        assert sys.stdout is before

    yield work, check


@use("loguru", "logging to a sink")
def _loguru(_places: Places) -> Iterator[Pair]:
    from loguru import logger

    messages: list[str] = []
    sink = logger.add(messages.append, format="{message}")

    def write() -> None:
        logger.info("x")
        messages.clear()

    def check() -> None:
        messages.clear()
        logger.bind(check=True).info("still")
        assert messages == ["still\n"]

    with contextlib.suppress(ValueError):
        logger.remove(0)  # the one that writes to stderr
    yield _again(write), check
    logger.remove(sink)


@use("coloredlogs", "logging (the standard library's handlers)")
def _logging(_places: Places) -> Iterator[Pair]:
    import coloredlogs

    output = io.StringIO()
    handler = logging.StreamHandler(output)
    handler.setFormatter(coloredlogs.ColoredFormatter("%(message)s"))
    logger = logging.getLogger("soak")
    logger.propagate = False
    logger.addHandler(handler)

    def write() -> None:
        logger.warning("x")
        output.truncate(0)

    def check() -> None:
        assert handler.lock is not None
        assert handler.lock.acquire(timeout=5)
        handler.lock.release()

    yield _again(write), check
    logger.removeHandler(handler)


@use("filelock", "a lock on a file")
def _filelock(places: Places) -> Iterator[Pair]:
    from filelock import FileLock

    lock = FileLock(places.folder / "lock", thread_local=False)

    def take() -> None:
        with lock:
            pass

    def check() -> None:
        with FileLock(places.folder / "lock").acquire(timeout=5):
            pass

    yield _again(take), check


@use("cachetools", "a function's cache with a lock")
def _cachetools(_places: Places) -> Iterator[Pair]:
    from cachetools import LRUCache, cached

    lock = threading.Lock()
    cache: LRUCache[Any, int] = LRUCache(100)

    @cached(cache, lock=lock)
    def double(number: int) -> int:
        return 2 * number

    def check() -> None:
        assert lock.acquire(timeout=5)
        lock.release()
        assert all(double(number) == 2 * number for number in range(200))

    numbers = itertools.count()
    yield _again(lambda: double(next(numbers) % 200)), check


@use("joblib", "`Memory`, a cache on disk")
def _joblib(places: Places) -> Iterator[Pair]:
    from joblib import Memory

    memory = Memory(places.folder / "joblib", verbose=0)
    double = memory.cache(_double)
    numbers = itertools.count()
    yield _again(lambda: double(next(numbers) % 50)), lambda: _all_double(double)


def _double(number: int) -> int:
    return 2 * number


def _all_double(double: Callable[[int], int]) -> None:
    assert all(double(number) == 2 * number for number in range(50))


@use("dask", "a graph on threads")
def _dask(_places: Places) -> Iterator[Pair]:
    from dask.delayed import delayed

    total = delayed(sum)([delayed(_double)(number) for number in range(10)])
    call = lambda: total.compute(scheduler="threads")  # noqa: E731
    yield _again(call), _equal(call, 90)


@use("fsspec", "files in memory")
def _fsspec(_places: Places) -> Iterator[Pair]:
    import fsspec

    def write() -> None:
        with fsspec.open("memory://file", "wb") as file:
            file.write(b"x" * 1000)

    def check() -> None:
        write()
        with fsspec.open("memory://file", "rb") as file:
            assert file.read() == b"x" * 1000

    yield _again(write), check


@use("tenacity", "a retried call")
def _tenacity(_places: Places) -> Iterator[Pair]:
    import tenacity

    @tenacity.retry(wait=tenacity.wait_fixed(0.001))
    def never() -> None:
        raise LookupError

    yield never, lambda: None


@use("anyio", "tasks in `anyio.run`, on asyncio")
def _anyio(_places: Places) -> Iterator[Pair]:
    import anyio

    async def main(times: int) -> int:
        async with anyio.create_task_group() as group:
            for _ in range(times):
                group.start_soon(anyio.sleep, 0.001)
        return times

    yield _again(lambda: anyio.run(main, 20)), lambda: anyio.run(main, 3)


@use(
    "trio",
    "tasks in `trio.run`",
    "`with iowq.on_cancel(token.run_sync_soon, scope.cancel):`; else its waits aren't ended",
)
def _trio(_places: Places) -> Iterator[Pair]:
    import trio

    async def main(times: int) -> None:
        token = trio.lowlevel.current_trio_token()
        with (
            trio.CancelScope() as scope,
            iowq.on_cancel(lambda: token.run_sync_soon(scope.cancel)),
        ):
            async with trio.open_nursery() as group:
                for _ in range(times):
                    group.start_soon(trio.sleep, 0.001)
        if scope.cancelled_caught:
            raise iowq.Cancelled

    yield _again(lambda: trio.run(main, 20)), lambda: trio.run(main, 3)


@use("psutil", "processes", "`with iowq.on_cancel(process.kill):` for a child")
def _psutil(_places: Places) -> Iterator[Pair]:
    import psutil

    def run() -> None:
        with psutil.Popen(["true"], stdout=subprocess.PIPE) as child:
            child.communicate()

    yield _again(run), run


# ---- what computes


@use("pandas", "CSV and groups")
def _pandas(_places: Places) -> Iterator[Pair]:
    import pandas

    text = "a,b\n" + "".join(f"{n % 7},{n}\n" for n in range(500))

    def call() -> int:
        frame = pandas.read_csv(io.StringIO(text))
        return int(frame.groupby("a").b.sum().sum())

    yield _again(call), _equal(call, sum(range(500)))


@use("numpy", "arrays")
def _numpy(_places: Places) -> Iterator[Pair]:
    import numpy

    def call() -> float:
        return float(numpy.linalg.norm(numpy.ones((50, 50)) @ numpy.ones((50, 50))))

    yield _again(call), _equal(call, call())


@use("pydantic", "models")
def _pydantic(_places: Places) -> Iterator[Pair]:
    import pydantic

    model = pydantic.create_model("Model", number=(int, ...), names=(list[str], ...))
    call = lambda: model.model_validate({"number": "3", "names": ["x"]}).model_dump()  # noqa: E731
    yield _again(call), _equal(call, {"number": 3, "names": ["x"]})


@use("jinja2", "templates, with the environment's cache")
def _jinja2(_places: Places) -> Iterator[Pair]:
    import jinja2

    texts = {f"t{n}": f"{n} {{% for i in range(3) %}}{{{{ i }}}}{{% endfor %}}" for n in range(20)}
    environment = jinja2.Environment(loader=jinja2.DictLoader(texts), cache_size=10)
    numbers = itertools.count()

    def render(number: int) -> str:
        return environment.get_template(f"t{number}").render()

    def check() -> None:
        assert [render(number) for number in range(20)] == [f"{n} 012" for n in range(20)]

    yield _again(lambda: render(next(numbers) % 20)), check


@use("pyyaml", "documents")
def _yaml(_places: Places) -> Iterator[Pair]:
    import yaml

    value = {"a": [1, 2, {"b": "c"}]}
    call = lambda: yaml.safe_load(yaml.safe_dump(value))  # noqa: E731
    yield _again(call), _equal(call, value)


@use("lxml", "XML")
def _lxml(_places: Places) -> Iterator[Pair]:
    from lxml import etree

    text = b"<a>" + b"<b>x</b>" * 500 + b"</a>"
    call = lambda: len(etree.fromstring(text).findall("b"))  # noqa: E731
    yield _again(call), _equal(call, 500)


@use("beautifulsoup4", "HTML")
def _soup(_places: Places) -> Iterator[Pair]:
    from bs4 import BeautifulSoup

    text = "<p>x</p>" * 50
    call = lambda: len(BeautifulSoup(text, "html.parser").find_all("p"))  # noqa: E731
    yield _again(call), _equal(call, 50)


@use("cryptography", "tokens")
def _cryptography(_places: Places) -> Iterator[Pair]:
    from cryptography.fernet import Fernet

    fernet = Fernet(Fernet.generate_key())
    call = lambda: fernet.decrypt(fernet.encrypt(b"still"))  # noqa: E731
    yield _again(call), lambda: _ok(call())


@use("networkx", "paths in a graph")
def _networkx(_places: Places) -> Iterator[Pair]:
    import networkx

    graph = networkx.grid_2d_graph(12, 12)
    call = functools.partial(networkx.shortest_path_length, graph, (0, 0), (11, 11))
    yield _again(call), _equal(call, 22)


@use("sympy", "sums, with its global cache")
def _sympy(_places: Places) -> Iterator[Pair]:
    import sympy

    x = sympy.Symbol("x")
    call = lambda: sympy.expand((x + 1) ** 6).coeff(x, 3)  # noqa: E731
    yield _again(call), _equal(call, 20)


@use("pygments", "highlighting")
def _pygments(_places: Places) -> Iterator[Pair]:
    import pygments
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import PythonLexer

    call = lambda: pygments.highlight("def f(): pass\n" * 20, PythonLexer(), HtmlFormatter())  # noqa: E731
    yield _again(call), _equal(call, call())


@use("markdown", "text to HTML")
def _markdown(_places: Places) -> Iterator[Pair]:
    import markdown

    call = lambda: markdown.markdown("# a\n\n* b\n" * 20)  # noqa: E731
    yield _again(call), _equal(call, call())


@use("msgpack", "messages")
def _msgpack(_places: Places) -> Iterator[Pair]:
    import msgpack

    value = {"a": list(range(100))}
    call = lambda: msgpack.unpackb(msgpack.packb(value))  # noqa: E731
    yield _again(call), _equal(call, value)
