"""A cluster of two hosts, each a network namespace: the program that test_two_hosts.py runs.

It runs in a namespace of its own, host A, with the scheduler, the client, and a worker. Host B is
another one, with a worker. A cable (veth) joins them.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from dask.base import annotate
from distributed import Client, Future

import iowq.dask
from support import wait_until
from tasks import Trace, check_runs, kill, log_run, receive, workers_of

A, B = "10.17.0.1", "10.17.0.2"
SCHEDULER = f"tcp://{A}:8786"
KEYS = [f"key{number}" for number in range(16)]
COUNT = 15


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


@contextmanager
def _process(*command: str) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(command) as process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def _host_b() -> Iterator[list[str]]:
    """Yields what a command begins with that is to run there."""
    with _process("unshare", "--net", "sleep", "infinity") as host:
        namespace = Path(f"/proc/{host.pid}/ns/net")
        wait_until(lambda: namespace.readlink() != Path("/proc/self/ns/net").readlink())
        enter = ["nsenter", f"--net={namespace}"]
        _ip("link", "set", "lo", "up")
        _ip("link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", str(host.pid))
        _ip("address", "add", f"{A}/24", "dev", "cable")
        _ip("link", "set", "cable", "up")
        for command in (f"address add {B}/24 dev cable", "link set cable up", "link set lo up"):
            subprocess.run([*enter, "ip", *command.split()], check=True)
        yield enter


def _worker(address: str) -> list[str]:
    """The command, without a nanny: who is killed stays dead."""
    options = ("--nthreads=2", "--no-nanny", "--no-dashboard", f"--host={address}")
    return [sys.executable, "-m", "distributed.cli.dask_worker", SCHEDULER, *options]


def _submit(client: Client, log: Path) -> list[Future[Any]]:
    futures = []
    for number in range(COUNT):
        for key in KEYS:
            with annotate(iowq_key=key):
                futures.append(client.submit(log_run, log, key, number, 0.02, pure=False))
    return futures


def _check_order(client: Client, log: Path, victim: int) -> None:
    """The worker on host B is killed while it works at a key; nobody's order suffers."""
    futures = _submit(client, log)
    wait_until(lambda: any(workers_of(log, key)[str(victim)] > 6 for key in KEYS), 60)
    kill(victim)
    assert client.gather(futures) == [number for number in range(COUNT) for _ in KEYS]
    again = [check_runs(log, key, COUNT) for key in KEYS]
    assert max(again) <= 1
    moved = [key for key in KEYS if len(workers_of(log, key)) == 2]
    assert moved
    assert all(str(victim) in workers_of(log, key) for key in moved)


def _check_cancel(client: Client, folder: Path, host: str) -> None:
    trace = Trace(folder / host)
    future = client.submit(trace, receive, workers=[host], pure=False)
    trace.wait_for("begun")
    future.cancel()
    assert trace.wait_for("ended") == "Cancelled"


def _check_lost_scheduler(client: Client, folder: Path, scheduler: int) -> None:
    """Nobody will ever want the result of what a worker runs whose scheduler is dead."""
    trace = Trace(folder / "lost")
    future = client.submit(trace, receive, pure=False)
    trace.wait_for("begun")
    kill(scheduler)
    assert trace.wait_for("ended") == "Cancelled"
    assert future.key


def main() -> None:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        in_b = stack.enter_context(_host_b())
        command = ["distributed.cli.dask_scheduler", f"--host={A}", "--no-dashboard"]
        scheduler = stack.enter_context(_process(sys.executable, "-m", *command))
        stack.enter_context(_process(*_worker(A)))
        on_b = stack.enter_context(_process(*in_b, *_worker(B)))
        client = stack.enter_context(Client(SCHEDULER, timeout=60))
        client.wait_for_workers(2, timeout=60)
        iowq.dask.register(client)
        assert sorted(worker.split(":")[1] for worker in client.nthreads()) == [f"//{A}", f"//{B}"]
        for host in (A, B):
            _check_cancel(client, folder, host)
        (folder / "log").mkdir()
        _check_order(client, folder / "log", on_b.pid)
        _check_lost_scheduler(client, folder, scheduler.pid)


if __name__ == "__main__":
    main()
