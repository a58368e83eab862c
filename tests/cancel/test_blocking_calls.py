"""Cancel of Python code that is blocked in a system call: call by call.

Each case is really blocked, as the kernel says, then cancelled. Checked are the
exception that the code sees, the work's state, that its worker takes the next
work, and that the object in question is still usable.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import http.client
import multiprocessing
import os
import select
import selectors
import signal
import smtplib
import socket
import sqlite3
import ssl
import subprocess
import sys
import threading
import time
import tty
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, TextIO
from unittest import mock

import pytest

import iowq
from support import (
    DEADLINE,
    cancel_blocked,
    make_certificate,
    silent_server,
    wait_until,
    wait_until_blocked,
)

#: Given a stack for clean-up and a folder, prepares the call and returns it, and
#: what checks afterwards that the object still works.
Case = Callable[[ExitStack, Path], tuple[Callable[[], object], Callable[[], object]]]
CASES: dict[str, Case] = {}


def case(function: Case) -> Case:
    CASES[function.__name__] = function
    return function


def nothing() -> None:
    """For calls that leave no object behind."""


def _sockets(stack: ExitStack) -> tuple[socket.socket, socket.socket]:
    ours, theirs = socket.socketpair()
    return stack.enter_context(ours), stack.enter_context(theirs)


def _echoes(ours: socket.socket, theirs: socket.socket) -> Callable[[], object]:
    def check() -> None:
        theirs.send(b"still")
        ours.settimeout(5)
        assert ours.recv(5) == b"still"

    return check


@case
def socket_recv(stack: ExitStack, _path: Path) -> Any:
    ours, theirs = _sockets(stack)
    return lambda: ours.recv(1), _echoes(ours, theirs)


@case
def socket_recv_with_timeout(stack: ExitStack, _path: Path) -> Any:
    ours, theirs = _sockets(stack)
    ours.settimeout(60)
    return lambda: ours.recv(1), _echoes(ours, theirs)


@case
def socket_recv_into(stack: ExitStack, _path: Path) -> Any:
    ours, theirs = _sockets(stack)
    return lambda: ours.recv_into(bytearray(10)), _echoes(ours, theirs)


@case
def socket_recvmsg(stack: ExitStack, _path: Path) -> Any:
    ours, theirs = _sockets(stack)
    return lambda: ours.recvmsg(10), _echoes(ours, theirs)


@case
def socket_sendall_into_a_full_one(stack: ExitStack, _path: Path) -> Any:
    ours, theirs = _sockets(stack)

    def check() -> None:
        theirs.settimeout(1)
        with contextlib.suppress(TimeoutError):
            while theirs.recv(1 << 20):
                pass
        ours.send(b"more")

    return lambda: ours.sendall(b"x" * 10_000_000), check


@case
def socket_accept(stack: ExitStack, _path: Path) -> Any:
    server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))

    def check() -> None:
        with socket.create_connection(server.getsockname()), server.accept()[0]:
            pass

    return server.accept, check


def _full_backlog(stack: ExitStack) -> socket.socket:
    """A server that has no room for one more connection until it accepts some."""
    server = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
    for _ in range(2):
        filler = stack.enter_context(socket.socket())
        filler.setblocking(False)
        filler.connect_ex(server.getsockname())
    return server


@case
def socket_connect_to_a_full_backlog(stack: ExitStack, _path: Path) -> Any:
    server = _full_backlog(stack)
    client = stack.enter_context(socket.socket())
    return lambda: client.connect(server.getsockname()), client.close


@case
def socket_create_connection_with_timeout(stack: ExitStack, _path: Path) -> Any:
    server = _full_backlog(stack)

    def connect(timeout: float) -> None:
        socket.create_connection(server.getsockname(), timeout).close()

    def check() -> None:
        server.accept()[0].close()
        connect(10)

    return lambda: connect(60), check


def _pipe(stack: ExitStack) -> tuple[int, int]:
    reading, writing = os.pipe()
    stack.callback(os.close, reading)
    stack.callback(os.close, writing)
    return reading, writing


@case
def os_read_of_a_pipe(stack: ExitStack, _path: Path) -> Any:
    reading, writing = _pipe(stack)

    def check() -> None:
        os.write(writing, b"still")
        assert os.read(reading, 5) == b"still"

    return lambda: os.read(reading, 1), check


@case
def os_write_to_a_full_pipe(stack: ExitStack, _path: Path) -> Any:
    reading, writing = _pipe(stack)

    def fill() -> None:
        while True:
            os.write(writing, b"x" * 65536)

    return fill, lambda: os.read(reading, 65536)


@case
def os_read_of_a_terminal(stack: ExitStack, _path: Path) -> Any:
    leader, follower = os.openpty()
    stack.callback(os.close, leader)
    stack.callback(os.close, follower)
    tty.setraw(follower)

    def check() -> None:
        os.write(leader, b"still")
        assert os.read(follower, 5) == b"still"

    return lambda: os.read(follower, 1), check


@case
def buffered_read(stack: ExitStack, _path: Path) -> Any:
    reading, writing = os.pipe()
    file = stack.enter_context(os.fdopen(reading, "rb"))
    writer = stack.enter_context(os.fdopen(writing, "wb", buffering=0))

    def check() -> None:
        writer.write(b"still")
        assert file.read(5) == b"still"

    return lambda: file.read(5), check


@case
def text_readline(stack: ExitStack, _path: Path) -> Any:
    reading, writing = os.pipe()
    file = stack.enter_context(os.fdopen(reading, "r"))
    writer = stack.enter_context(os.fdopen(writing, "wb", buffering=0))

    def check() -> None:
        writer.write(b"still\n")
        assert file.readline() == "still\n"

    return file.readline, check


def _text_terminal(stack: ExitStack) -> tuple[TextIO, Callable[[str], object]]:
    """A terminal as text, and what types lines into it."""
    leader, follower = os.openpty()
    stack.callback(os.close, leader)
    return stack.enter_context(os.fdopen(follower)), lambda line: os.write(leader, line.encode())


@case
def text_readline_of_a_terminal(stack: ExitStack, _path: Path) -> Any:
    terminal, type_in = _text_terminal(stack)

    def check() -> None:
        type_in("still\n")
        assert terminal.readline() == "still\n"

    return terminal.readline, check


@case
def input_from_a_terminal(stack: ExitStack, _path: Path) -> Any:
    terminal, type_in = _text_terminal(stack)
    stack.enter_context(mock.patch("sys.stdin", terminal))

    def check() -> None:
        type_in("still\n")
        assert input() == "still"

    return input, check


@case
def open_of_a_fifo(_stack: ExitStack, path: Path) -> Any:
    fifo = path / "fifo"
    os.mkfifo(fifo)

    def check() -> None:
        with open(fifo, "rb+", buffering=0):  # noqa: PTH123
            pass

    return fifo.open, check


@case
def time_sleep(_stack: ExitStack, _path: Path) -> Any:
    return lambda: time.sleep(60), nothing


@case
def select_select(stack: ExitStack, _path: Path) -> Any:
    ours, theirs = _sockets(stack)
    return lambda: select.select([ours], [], []), _echoes(ours, theirs)


@case
def select_poll(stack: ExitStack, _path: Path) -> Any:
    ours, theirs = _sockets(stack)
    poll = select.poll()
    poll.register(ours, select.POLLIN)
    return poll.poll, _echoes(ours, theirs)


@case
def select_epoll(stack: ExitStack, _path: Path) -> Any:
    ours, theirs = _sockets(stack)
    epoll = stack.enter_context(select.epoll())
    epoll.register(ours, select.EPOLLIN)

    def check() -> None:
        theirs.send(b"x")
        assert epoll.poll(5)

    return epoll.poll, check


@case
def selectors_select(stack: ExitStack, _path: Path) -> Any:
    ours, theirs = _sockets(stack)
    selector = stack.enter_context(selectors.DefaultSelector())
    selector.register(ours, selectors.EVENT_READ)

    def check() -> None:
        theirs.send(b"x")
        assert selector.select(5)

    return selector.select, check


@case
def asyncio_run(_stack: ExitStack, _path: Path) -> Any:
    """The loop takes the error for its own end, and cancels its tasks."""
    cleaned: list[str] = []

    async def sleep() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.01)
            cleaned.append("up")

    def check() -> None:
        assert cleaned == ["up"]
        assert asyncio.run(asyncio.sleep(0, "still")) == "still"

    return lambda: asyncio.run(sleep()), check


def _with_blocked_signal(wait: Callable[[list[int]], object]) -> None:
    """Signals are waited for by the threads that block them."""
    waited_for: list[int] = [signal.SIGUSR2]
    before = signal.pthread_sigmask(signal.SIG_BLOCK, waited_for)
    try:
        wait(waited_for)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@case
def signal_sigwait(_stack: ExitStack, _path: Path) -> Any:
    return lambda: _with_blocked_signal(signal.sigwait), nothing


@case
def signal_sigtimedwait(_stack: ExitStack, _path: Path) -> Any:
    return lambda: _with_blocked_signal(lambda which: signal.sigtimedwait(which, 60)), nothing


def _child(stack: ExitStack, **options: Any) -> subprocess.Popen[bytes]:
    child = subprocess.Popen(["sleep", "60"], **options)
    stack.callback(child.wait)
    stack.callback(child.kill)
    return child


@case
def subprocess_run(_stack: ExitStack, _path: Path) -> Any:
    return lambda: subprocess.run(["sleep", "60"], check=True), nothing


@case
def subprocess_wait(stack: ExitStack, _path: Path) -> Any:
    child = _child(stack)

    def check() -> None:
        child.kill()
        assert child.wait(DEADLINE) < 0

    return child.wait, check


@case
def subprocess_communicate(stack: ExitStack, _path: Path) -> Any:
    child = _child(stack, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    stack.callback(lambda: [pipe.close() for pipe in (child.stdout, child.stderr) if pipe])
    return child.communicate, nothing


@case
def os_waitpid(stack: ExitStack, _path: Path) -> Any:
    child = _child(stack)
    return lambda: os.waitpid(child.pid, 0), nothing


def _locked(stack: ExitStack, path: Path) -> tuple[Any, Any]:
    paths = [stack.enter_context((path / "lock").open("w")) for _ in range(2)]
    return paths[0], paths[1]


@case
def fcntl_flock(stack: ExitStack, path: Path) -> Any:
    holder, waiter = _locked(stack, path)
    fcntl.flock(holder, fcntl.LOCK_EX)

    def check() -> None:
        fcntl.flock(holder, fcntl.LOCK_UN)
        fcntl.flock(waiter, fcntl.LOCK_EX | fcntl.LOCK_NB)

    return lambda: fcntl.flock(waiter, fcntl.LOCK_EX), check


@case
def fcntl_lockf(stack: ExitStack, path: Path) -> Any:
    """The lock is another process': lockf's belong to processes."""
    code = (
        "import fcntl,sys; f=open(sys.argv[1],'w'); fcntl.lockf(f,2); print(1,flush=True); input()"
    )
    child = stack.enter_context(
        subprocess.Popen(
            [sys.executable, "-c", code, str(path / "lock")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
    )
    assert child.stdout is not None
    child.stdout.readline()
    waiter = stack.enter_context((path / "lock").open("r+"))

    def check() -> None:
        child.kill()
        child.wait()
        fcntl.lockf(waiter, fcntl.LOCK_EX)

    return lambda: fcntl.lockf(waiter, fcntl.LOCK_EX), check


@case
def ssl_handshake(stack: ExitStack, _path: Path) -> Any:
    context = ssl.create_default_context()
    raw = stack.enter_context(
        socket.create_connection(stack.enter_context(silent_server()), timeout=None)
    )

    def handshake() -> None:
        context.wrap_socket(raw, server_hostname="localhost")

    return handshake, nothing


def _tls(stack: ExitStack, path: Path) -> tuple[ssl.SSLSocket, ssl.SSLSocket]:
    """A client and a server, connected, the handshake done."""
    certificate, key = make_certificate(path)
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(certificate, key)
    theirs: list[ssl.SSLSocket] = []

    def serve(server: socket.socket) -> None:
        theirs.append(serving.wrap_socket(server.accept()[0], server_side=True))

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve, args=(server,))
        thread.start()
        raw = stack.enter_context(socket.create_connection(server.getsockname(), timeout=None))
        context = ssl.create_default_context(cafile=str(certificate))
        ours = stack.enter_context(context.wrap_socket(raw, server_hostname="localhost"))
        thread.join()
    return ours, stack.enter_context(theirs[0])


@case
def ssl_recv(stack: ExitStack, path: Path) -> Any:
    ours, theirs = _tls(stack, path)
    return lambda: ours.recv(1), _echoes(ours, theirs)


@case
def ssl_recv_with_timeout(stack: ExitStack, path: Path) -> Any:
    """`_ssl` polls again after an error."""
    ours, theirs = _tls(stack, path)
    ours.settimeout(60)
    return lambda: ours.recv(1), _echoes(ours, theirs)


@case
def ssl_handshake_with_timeout(stack: ExitStack, _path: Path) -> Any:
    context = ssl.create_default_context()
    address = stack.enter_context(silent_server())
    raw = stack.enter_context(socket.create_connection(address, timeout=60))

    def handshake() -> None:
        context.wrap_socket(raw, server_hostname="localhost")

    return handshake, nothing


@case
def ssl_sendall_with_timeout(stack: ExitStack, path: Path) -> Any:
    ours, _theirs = _tls(stack, path)
    ours.settimeout(60)
    return lambda: ours.sendall(b"x" * 10_000_000), ours.close


@case
def ssl_sendall_into_a_full_one(stack: ExitStack, path: Path) -> Any:
    """OpenSSL would have the rest of the record sent first: the connection is lost."""
    ours, _theirs = _tls(stack, path)
    return lambda: ours.sendall(b"x" * 10_000_000), ours.close


class _Address(ctypes.Structure):
    """`struct sockaddr_in`."""

    _fields_ = (
        ("family", ctypes.c_uint16),
        ("port", ctypes.c_uint8 * 2),
        ("address", ctypes.c_uint8 * 4),
        ("zero", ctypes.c_uint8 * 8),
    )


class _Resolver(ctypes.Structure):
    """How glibc's `struct __res_state` begins."""

    _fields_ = (
        ("timeout", ctypes.c_int),
        ("attempts", ctypes.c_int),
        ("options", ctypes.c_ulong),
        ("servers_used", ctypes.c_int),
        ("servers", _Address * 3),
    )


def _use_name_server(address: tuple[str, int]) -> None:
    """For the calling thread alone: glibc has a state for each. No file is touched."""
    libc = ctypes.CDLL(None)
    libc.__res_state.restype = ctypes.POINTER(_Resolver)
    assert libc.__res_init() == 0
    resolver = libc.__res_state().contents
    resolver.timeout, resolver.attempts, resolver.servers_used = 30, 2, 1
    server = resolver.servers[0]
    server.family = socket.AF_INET
    server.port[:] = address[1].to_bytes(2, "big")
    server.address[:] = socket.inet_aton(address[0])


@case
def socket_getaddrinfo(stack: ExitStack, _path: Path) -> Any:
    """glibc asks once more before it gives up: the grace period longer."""
    name_server = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    name_server.bind(("127.0.0.1", 0))
    name_server.setblocking(False)

    def resolve() -> None:
        _use_name_server(name_server.getsockname())
        socket.getaddrinfo("silent.example.", 80)

    def check() -> None:
        assert b"silent" in name_server.recv(512)

    return resolve, check


@case
def urllib_urlopen(stack: ExitStack, _path: Path) -> Any:
    host, port = stack.enter_context(silent_server())
    return lambda: urllib.request.urlopen(f"http://{host}:{port}/"), nothing


@case
def http_client_getresponse(stack: ExitStack, _path: Path) -> Any:
    connection = http.client.HTTPConnection(*stack.enter_context(silent_server()))
    stack.callback(connection.close)

    def get() -> None:
        connection.request("GET", "/")
        connection.getresponse()

    return get, nothing


@case
def smtplib_connect(stack: ExitStack, _path: Path) -> Any:
    host, port = stack.enter_context(silent_server())
    return lambda: smtplib.SMTP(host, port), nothing


@case
def multiprocessing_pipe(stack: ExitStack, _path: Path) -> Any:
    ours, theirs = multiprocessing.Pipe()
    stack.callback(ours.close)
    stack.callback(theirs.close)

    def check() -> None:
        theirs.send("still")
        assert ours.recv() == "still"

    return ours.recv, check


@case
def multiprocessing_queue_get(stack: ExitStack, _path: Path) -> Any:
    """Its lock, which it holds while it reads, is free afterwards."""
    queue: multiprocessing.Queue[str] = multiprocessing.Queue()
    stack.callback(queue.join_thread)
    stack.callback(queue.close)

    def check() -> None:
        queue.put("still")
        assert queue.get(timeout=10) == "still"

    return queue.get, check


@case
def iterdir_of_names_then_sleep(_stack: ExitStack, path: Path) -> Any:
    """Python code around the call sees the exception where the call is."""

    def work() -> None:
        assert list(path.iterdir()) == []
        with contextlib.closing(socket.socket()):
            time.sleep(60)

    return work, nothing


#: Where the code sees a library's own words.
SEEN: dict[str, type[BaseException]] = {"socket_getaddrinfo": socket.gaierror}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_cancel_ends(name: str, tmp_path: Path) -> None:
    with ExitStack() as stack:
        call, check = CASES[name](stack, tmp_path)
        error = cancel_blocked(call)
        assert isinstance(error, SEEN.get(name, iowq.Cancelled))
        check()


def _connect_sqlite(database: Path, timeout: float) -> sqlite3.Connection:
    return sqlite3.connect(database, timeout=timeout, isolation_level=None, check_same_thread=False)


@contextmanager
def _locked_database(path: Path) -> Iterator[tuple[sqlite3.Connection, sqlite3.Connection]]:
    """Who holds the lock, and who is going to wait for it."""
    with (
        closing(_connect_sqlite(path / "database", 0)) as holder,
        closing(_connect_sqlite(path / "database", 60)) as waiter,
    ):
        holder.execute("create table numbers (number)")
        holder.execute("begin exclusive")
        yield holder, waiter
        assert waiter.execute("pragma integrity_check").fetchall() == [("ok",)]


def test_sqlite_wait_for_a_lock(tmp_path: Path) -> None:
    """It sleeps between its tries, of which cancel leaves it the number, not the time."""
    with _locked_database(tmp_path) as (holder, waiter):
        error = cancel_blocked(lambda: waiter.execute("insert into numbers values (1)"))
        assert isinstance(error, sqlite3.OperationalError)
        holder.execute("commit")
        waiter.execute("insert into numbers values (2)")
        assert holder.execute("select number from numbers").fetchall() == [(2,)]


def test_sqlite_with_a_long_timeout(tmp_path: Path) -> None:
    """It naps a tenth of a second at a time: 3,000 naps are cut short, one after the other."""
    with _locked_database(tmp_path) as (holder, waiter):
        waiter.execute("pragma busy_timeout = 300000")
        begun = time.monotonic()
        error = cancel_blocked(lambda: waiter.execute("insert into numbers values (1)"))
        assert isinstance(error, sqlite3.OperationalError)
        assert time.monotonic() - begun < DEADLINE
        holder.execute("commit")


def test_sqlite_gets_the_lock_in_time(tmp_path: Path) -> None:
    """The work succeeds, for nothing has told it of the cancel."""
    threads: list[int] = []
    with _locked_database(tmp_path) as (holder, waiter), iowq.WorkQueue(1) as wq:

        def insert() -> None:
            threads.append(threading.get_native_id())
            waiter.execute("insert into numbers values (1)")

        work = wq.enqueue(insert)
        wait_until(lambda: threads)
        wait_until_blocked(threads[0])
        assert wq.cancel(work) is iowq.Cancel.RUNNING
        holder.execute("commit")
        wq.flush(timeout=20)
        assert work.done()
        assert not work.cancelled()
        assert holder.execute("select number from numbers").fetchall() == [(1,)]
