"""Programs and libraries that take an executor, with a queue as theirs."""

from __future__ import annotations

import asyncio
import io
import os
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import (
    FIRST_COMPLETED,
    Future,
    ThreadPoolExecutor,
    as_completed,
    wait,
)
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import aiofiles
import aiofiles.os
import botocore.session
import dask.threaded
import pytest
import requests
import tornado
import urllib3
from s3transfer.manager import TransferConfig, TransferManager
from tornado.concurrent import run_on_executor
from tornado.ioloop import IOLoop

import iowq
from servers import serving
from support import DEADLINE, Blocker, is_blocked, wait_until, wait_until_blocked


@pytest.fixture
def one() -> Iterator[iowq.WorkQueue]:
    with iowq.WorkQueue(1) as wq:
        yield wq


async def _until(condition: Callable[[], object]) -> None:
    give_up = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < give_up, "the condition did not come true in time"
        await asyncio.sleep(0.001)


async def _blocked(wq: iowq.WorkQueue) -> int:
    """Waits until the queue's only worker is blocked in its work; returns its thread."""
    await _until(lambda: wq.stats().running and is_blocked(wq.workers()[0].thread))
    thread = wq.workers()[0].thread
    wait_until_blocked(thread)
    return thread


async def _expire(call: Coroutine[Any, Any, object], wq: iowq.WorkQueue) -> None:
    """Has asyncio's time limit for a call expire, once that is blocked; its worker is free then."""
    task = asyncio.ensure_future(call)
    thread = await _blocked(wq)
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(task, 0.01)
    next_work = asyncio.get_running_loop().run_in_executor(wq, threading.get_native_id)
    assert await asyncio.wait_for(next_work, DEADLINE) == thread


# ---- concurrent.futures


def test_wait_for_futures_of_several_executors(one: iowq.WorkQueue, blocker: Blocker) -> None:
    with ThreadPoolExecutor(1) as pool:
        futures: list[Future[Any]] = [one.submit(blocker), pool.submit(blocker)]
        quick: list[Future[Any]] = [pool.submit(int), one.submit(int)]
        done, running = wait(futures, timeout=0.01)
        assert (done, running) == (set(), set(futures))
        futures[0].cancel()
        assert wait(futures, DEADLINE, FIRST_COMPLETED).done == {futures[0]}
        blocker.release()
        assert wait(futures + quick, DEADLINE).not_done == set()


def test_as_completed_of_several_executors(wq: iowq.WorkQueue) -> None:
    gates = [threading.Event() for _ in range(6)]
    with ThreadPoolExecutor(3) as pool:
        executors = [pool, wq, pool, wq.hashed("key"), pool, wq]
        futures = [
            executor.submit(lambda n: (gates[n].wait(DEADLINE), n)[1], number)
            for number, executor in enumerate(executors)
        ]
        gates[0].set()
        order = []
        for future in as_completed(futures, timeout=DEADLINE):
            order.append(future.result())
            if len(order) < len(gates):
                gates[len(order)].set()
    assert order == list(range(6))


# ---- aiofiles


def test_aiofiles(wq: iowq.WorkQueue, tmp_path: Path) -> None:
    path = tmp_path / "file"

    async def main() -> None:
        async with aiofiles.open(path, "w", executor=wq) as file:
            await file.write("one\ntwo\n")
        async with aiofiles.open(path, executor=wq) as file:
            assert [line async for line in file] == ["one\n", "two\n"]
        with pytest.raises(FileNotFoundError):
            await aiofiles.os.stat(tmp_path / "none", executor=wq)

    asyncio.run(main())
    assert wq.stats().enqueued >= 6


def test_aiofiles_with_the_default_executor(tmp_path: Path) -> None:
    async def main() -> None:
        wq = iowq.WorkQueue(2)
        asyncio.get_running_loop().set_default_executor(wq)
        async with aiofiles.open(tmp_path / "file", "wb") as file:
            assert await file.write(b"data") == 4
        assert wq.stats().enqueued >= 3

    asyncio.run(main())


def test_aiofiles_writes_in_the_order_of_a_key(wq: iowq.WorkQueue, tmp_path: Path) -> None:
    path = tmp_path / "file"

    async def main() -> None:
        async with aiofiles.open(path, "w", executor=wq.hashed(path)) as file:
            await asyncio.gather(*[file.write(f"{number}\n") for number in range(500)])

    asyncio.run(main())
    assert path.read_text().split() == [str(number) for number in range(500)]


def test_time_limit_of_aiofiles(one: iowq.WorkQueue, tmp_path: Path) -> None:
    """On files that may block, which the documentation of asyncio has no answer for."""
    path = tmp_path / "fifo"
    os.mkfifo(path)

    async def open_it() -> None:
        await aiofiles.open(path, executor=one)

    async def main() -> None:
        await _expire(open_it(), one)  # nobody writes
        writer = os.open(path, os.O_RDWR)
        async with aiofiles.open(path, "rb", buffering=0, executor=one) as file:
            await _expire(file.read(4), one)
            os.write(writer, b"late")
            assert await file.read(4) == b"late"
        os.close(writer)

    asyncio.run(main())


# ---- dask


def _narrow(executor: iowq.QueueExecutor) -> iowq.QueueExecutor:
    return executor.within(DEADLINE)


@pytest.mark.parametrize("view", [lambda wq: wq, _narrow])
def test_dask(wq: iowq.WorkQueue, view: Callable[[iowq.WorkQueue], iowq.QueueExecutor]) -> None:
    threads: list[str] = []

    def square(number: int) -> int:
        threads.append(threading.current_thread().name)
        return number * number

    untyped: Any = dask
    lazy = untyped.delayed
    total = lazy(sum)([lazy(square)(number) for number in range(100)])
    (result,) = untyped.compute(total, scheduler="threads", pool=view(wq))
    assert result == sum(number * number for number in range(100))
    assert all(name.startswith("iowq") for name in threads)
    graph = {"x": 1, "y": (square, 3), "z": (divmod, "y", 2)}
    assert dask.threaded.get(graph, ["z", "x"], pool=view(wq)) == ((4, 1), 1)


def test_an_error_in_dask(wq: iowq.WorkQueue) -> None:
    graph = {"x": (int, "no number"), "y": (abs, "x")}
    with pytest.raises(ValueError, match="no number"):
        dask.threaded.get(graph, "y", pool=wq)


def test_cancel_ends_what_dask_computes(wq: iowq.WorkQueue) -> None:
    """One that computes a graph gets an error, and doesn't wait for ever."""
    with ThreadPoolExecutor(1) as pool:
        computing = pool.submit(dask.threaded.get, {"x": (time.sleep, 600)}, "x", pool=wq)
        wait_until(lambda: wq.stats().running)
        wait_until_blocked(wq.workers()[0].thread)
        wq.cancel_all()
        error = computing.exception(DEADLINE)
        assert isinstance(error, iowq.Cancelled)


# ---- tornado


class _Service:
    def __init__(self, executor: iowq.QueueExecutor) -> None:
        self.executor = executor

    @run_on_executor
    def divide(self, dividend: int, divisor: int) -> tuple[int, int]:
        return divmod(dividend, divisor)


def test_tornado(wq: iowq.WorkQueue) -> None:
    async def main() -> None:
        loop = IOLoop.current()
        calls: list[Callable[[int, int], Awaitable[Any]]] = [
            lambda *args: loop.run_in_executor(wq, divmod, *args),
            lambda *args: loop.run_in_executor(None, divmod, *args),
            _Service(wq.hashed("key")).divide,
        ]
        loop.set_default_executor(wq.within(DEADLINE))
        for call in calls:
            assert await call(7, 3) == (2, 1)
            with pytest.raises(ZeroDivisionError):
                await call(7, 0)

    asyncio.run(main())
    assert wq.stats().enqueued == 6


def test_the_queues_time_limit_in_tornado(one: iowq.WorkQueue) -> None:
    """Tornado's own don't cancel what they have waited for."""

    async def main() -> None:
        with pytest.raises(TimeoutError):
            await IOLoop.current().run_in_executor(one.within(0.01), time.sleep, 600)
        assert await IOLoop.current().run_in_executor(one, divmod, 7, 3) == (2, 1)

    asyncio.run(main())


@pytest.mark.skipif(tornado.version_info < (6, 6), reason="never hears of a cancel")
def test_cancel_by_the_queue_in_tornado(wq: iowq.WorkQueue) -> None:
    async def main() -> None:
        future = IOLoop.current().run_in_executor(wq, time.sleep, 600)
        await _until(lambda: wq.stats().running)
        wq.cancel_all()
        with pytest.raises(asyncio.CancelledError):
            await future

    asyncio.run(main())


# ---- clients of an HTTP server


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # connections stay open
    disable_nagle_algorithm = True
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.server.connections += 1

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.data)))
        self.end_headers()

    def do_GET(self) -> None:
        if self.path == "/slow":
            self.rfile.read(1)  # until the client has closed the connection
            self.server.abandoned.release()
            self.close_connection = True
            return
        begin, end = 0, len(self.server.data)
        if "Range" in self.headers:
            first, _, last = self.headers["Range"].removeprefix("bytes=").partition("-")
            begin, end = int(first), int(last or end - 1) + 1
        self.send_response(206 if "Range" in self.headers else 200)
        body = self.server.data[begin:end]
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args: object) -> None:
        """Nothing."""


class _Server(ThreadingHTTPServer):
    """Gives the same bytes to every request but those for /slow."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.data = b"fast"
        self.connections = 0
        self.abandoned = threading.Semaphore(0)
        self.url = f"http://127.0.0.1:{self.server_port}"


@pytest.fixture
def http() -> Iterator[_Server]:
    server = _Server()
    server.daemon_threads = True  # which may have idle connections
    with serving(server):
        yield server


def _urllib3_client(retries: int = 0) -> Any:
    return urllib3.PoolManager(maxsize=4, block=True, retries=retries)


def _get_by_urllib3(client: Any, url: str) -> bytes:
    data: bytes = client.request("GET", url).data
    return data


def _get_by_requests(client: Any, url: str) -> bytes:
    data: bytes = client.get(url).content
    return data


@pytest.mark.parametrize(
    ("new_client", "get"),
    [(_urllib3_client, _get_by_urllib3), (requests.Session, _get_by_requests)],
    ids=["urllib3", "requests"],
)
def test_time_limits_for_http(
    one: iowq.WorkQueue,
    http: _Server,
    new_client: Callable[[], Any],
    get: Callable[[Any, str], bytes],
) -> None:
    """A request that is ended takes its connection with it, and no other."""
    client = new_client()

    async def request(path: str) -> bytes:
        return await asyncio.get_running_loop().run_in_executor(one, get, client, http.url + path)

    async def main() -> None:
        assert await request("/") == b"fast"
        await _expire(request("/slow"), one)
        assert http.abandoned.acquire(timeout=DEADLINE)
        assert await request("/") == b"fast"
        connections = http.connections
        for _ in range(5):
            assert await request("/") == b"fast"
        assert http.connections == connections

    asyncio.run(main())


@pytest.mark.parametrize("retries", [0, 3])
def test_a_pool_of_connections_after_time_limits(
    wq: iowq.WorkQueue, http: _Server, retries: int
) -> None:
    """Requests that are ended give their places in the pool back."""
    client = _urllib3_client(retries)

    def get(path: str) -> Awaitable[bytes]:
        loop = asyncio.get_running_loop()
        return loop.run_in_executor(wq, _get_by_urllib3, client, http.url + path)

    async def main() -> None:
        for _ in range(3):
            slow = asyncio.gather(*[get("/slow") for _ in range(3)])
            await _until(lambda: wq.stats().running == 3)
            assert await asyncio.gather(*[get("/") for _ in range(5)]) == [b"fast"] * 5
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(slow, 0.01)
            assert await asyncio.gather(*[get("/") for _ in range(20)]) == [b"fast"] * 20

    asyncio.run(main())
    wq.flush(timeout=DEADLINE)


# ---- s3transfer


def test_s3transfer(http: _Server) -> None:
    """It makes three executors, of the class that it is given, and shuts them down."""
    queues: list[iowq.WorkQueue] = []

    def executor(max_workers: int) -> iowq.WorkQueue:
        queues.append(iowq.WorkQueue(max_workers=max_workers))
        return queues[-1]

    http.data = bytes(range(256)) * 4096
    client: Any = botocore.session.Session().create_client(
        "s3",
        endpoint_url=http.url,
        region_name="us-east-1",
        aws_access_key_id="name",
        aws_secret_access_key="secret",
    )
    config = TransferConfig(multipart_threshold=2**16, multipart_chunksize=2**16)
    manager: Any = TransferManager(client, config, executor_cls=executor)  # type: ignore[arg-type]
    downloads = [io.BytesIO() for _ in range(3)]
    with closing(client), manager:
        futures = [manager.download("bucket", "key", download) for download in downloads]
        for future in futures:
            future.result()
    assert all(download.getvalue() == http.data for download in downloads)
    assert len(queues) == 3
    assert all(wq.stats().workers == 0 for wq in queues)
    assert sum(wq.stats().enqueued for wq in queues) > 3 * 16
