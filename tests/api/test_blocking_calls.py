"""Cancel of Python code that is blocked in a system call: call by call.

Each case is really blocked, as the kernel says, then cancelled. Checked are the
exception that the code sees, the work's state, that its worker takes the next
work, and that the object in question is still usable.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import http.client
import multiprocessing
import os
import select
import smtplib
import socket
import ssl
import subprocess
import time
import tty
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from support import cancel_blocked, silent_server

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


@case
def socket_connect_to_a_full_backlog(stack: ExitStack, _path: Path) -> Any:
    server = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
    for _ in range(2):
        filler = stack.enter_context(socket.socket())
        filler.setblocking(False)
        filler.connect_ex(server.getsockname())
    client = stack.enter_context(socket.socket())
    return lambda: client.connect(server.getsockname()), client.close


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
        assert child.wait(5) < 0

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
            ["python3", "-c", code, str(path / "lock")],
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
def iterdir_of_names_then_sleep(_stack: ExitStack, path: Path) -> Any:
    """Python code around the call sees the error where the call is."""

    def work() -> None:
        assert list(path.iterdir()) == []
        with contextlib.closing(socket.socket()):
            time.sleep(60)

    return work, nothing


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_cancel_ends(name: str, tmp_path: Path) -> None:
    with ExitStack() as stack:
        call, check = CASES[name](stack, tmp_path)
        error = cancel_blocked(call)
        assert isinstance(error, OSError)
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        assert os.strerror(errno.ECANCELED) in str(reason)
        check()
