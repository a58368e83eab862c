"""What the tests of the Python API share."""

from __future__ import annotations

import contextlib
import gc
import os
import socket
import subprocess
import sys
import sysconfig
import textwrap
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import iowq

DEADLINE = 30.0
FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))

#: Installs a module of this text where pip would: see conftest.py.
Install = Callable[[str], ModuleType]

FUTEX = {"x86_64": "202", "aarch64": "98"}[os.uname().machine]


def wait_until(condition: Callable[[], object], deadline: float = DEADLINE) -> None:
    """Waits until condition() is true; fails when time is up."""
    give_up = time.monotonic() + deadline
    while not condition():
        assert time.monotonic() < give_up, "the condition did not come true in time"
        time.sleep(0.0005)


def is_gone(reference: weakref.ref[Any]) -> bool:
    """Whether an object is gone, without a garbage collection.

    But for free-threaded builds: they leave it to the collector to free the frames that an
    exception has come through.
    """
    if FREE_THREADED:
        gc.collect()
    return reference() is None


def is_blocked(thread: int) -> bool:
    """Whether the thread is blocked in a system call, as the kernel says."""
    call = Path(f"/proc/self/task/{thread}/syscall").read_text()
    return call[0].isdigit() and call.split()[0] != FUTEX


def wait_until_blocked(thread: int) -> None:
    """Waits until the thread is blocked for good, not on its way through."""
    for _ in range(3):
        wait_until(lambda: is_blocked(thread))
        time.sleep(0.005)


def waits_for_a_lock(wq: iowq.WorkQueue) -> bool:
    """Whether one of its works does, as the kernel says."""
    return any("futex" in (worker.blocked_in or "") for worker in wq.workers() if worker.work)


def cancel_blocked(
    call: Callable[[], object], ready: Callable[[], object] = lambda: True
) -> BaseException:
    """Cancels a work that is blocked in call, and returns the exception that ended it.

    :param ready: tells whether it is blocked where it is to be.

    Checks that it ended soon, that it counts as cancelled, and that its worker takes the next
    work. By itself the call must not end sooner than in a minute.
    """
    seen: list[tuple[float, BaseException]] = []
    threads: list[int] = []

    def work() -> None:
        threads.append(threading.get_native_id())
        try:
            call()
        except BaseException as error:
            seen.append((time.perf_counter(), error))
            raise

    with iowq.WorkQueue(1) as wq:
        running = wq.enqueue(work)
        wait_until(lambda: threads and ready())
        wait_until_blocked(threads[0])
        begun = time.perf_counter()
        assert wq.cancel(running) is iowq.Cancel.RUNNING
        wq.flush(timeout=20)
        assert seen, "the call returned as if nothing had happened"
        ended, error = seen[0]
        assert ended - begun < 10
        assert running.cancelled()
        wq.enqueue(lambda: threads.append(threading.get_native_id()))
        wq.flush(timeout=10)
        assert threads[0] == threads[1]
    return error


@contextmanager
def silent_server() -> Iterator[tuple[str, int]]:
    """Accepts connections, and says nothing. Gives its address."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        connections: list[socket.socket] = []

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connections.append(server.accept()[0])

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield server.getsockname()
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()
            for connection in connections:
                connection.close()


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """Makes a certificate for this machine's own addresses, and its key."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    command = "openssl req -x509 -nodes -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -days 2"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run(
        [*command.split(), *names, "-keyout", key, "-out", certificate],
        check=True,
        capture_output=True,
    )
    return certificate, key


class Blocker:
    """A callable that blocks until it is released."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self._open = threading.Event()

    def __call__(self) -> None:
        self.entered.release()
        assert self._open.wait(DEADLINE)

    def wait_entered(self, times: int = 1) -> None:
        for _ in range(times):
            assert self.entered.acquire(timeout=DEADLINE)

    def release(self) -> None:
        self._open.set()


def run_python(
    code: str, timeout: float = DEADLINE, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs code in a new interpreter of the same version."""
    return subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env={**os.environ, **environment},
    )


def succeed(program: str, place: Path) -> str:
    """Runs the program, which finds the place in its environment; returns what it says."""
    result = run_python(program, PLACE=str(place))
    assert result.returncode == 0, result.stderr
    return result.stdout + result.stderr


@contextmanager
def running(code: str) -> Iterator[subprocess.Popen[str]]:
    """Runs code in a process of its own, as soon as that has printed "ready"."""
    command = [sys.executable, "-c", textwrap.dedent(code)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.communicate()
