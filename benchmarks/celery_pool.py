"""What Celery's tasks cost in iowq's pool, beside its own pools: ratios are medians of rounds.

    python benchmarks/celery_pool.py [rounds]

Needs `redis-server`, which it starts, and `pip install 'iowq[celery]' redis`.
"""

from __future__ import annotations

import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import redis
from celery import Celery, Task

from iowq.celery import TaskPool

EMPTY_TASKS, RUNNING = 2000, 40
BLOCKED = 100
_FOLDER = os.environ.get("IOWQ_BENCHMARK", "")
_SERVER = f"redis+socket://{_FOLDER}/redis"

# ---- the app, which workers import

app = Celery("celery_pool", broker=_SERVER, backend=f"{_SERVER}?virtual_host=1")
app.conf.task_ignore_result = True


def notes() -> redis.Redis:
    """What tasks write to."""
    return redis.Redis(unix_socket_path=f"{_FOLDER}/redis", db=2)


@app.task
def empty() -> None:
    pass


@app.task
def stamp() -> None:
    """Says when it is executed."""
    notes().rpush("stamps", time.time())


@app.task
def block() -> None:
    """Waits for what never comes."""
    here, _there = socket.socketpair()
    connection = notes()
    connection.incr("blocked")
    try:
        here.recv(1)
    finally:
        connection.incr("ended")
        connection.close()


# ---- what is measured


class Worker(NamedTuple):
    process: subprocess.Popen[bytes]
    queue: str

    def send(self, task: Task[..., None], count: int) -> list[str]:
        with app.producer_pool.acquire() as producer:
            return [task.apply_async(queue=self.queue, producer=producer).id for _ in range(count)]

    def consume(self, does: bool) -> None:
        name = f"{self.queue}@localhost"
        command = app.control.add_consumer if does else app.control.cancel_consumer
        command(self.queue, destination=[name], reply=True, timeout=30)


def _wait(condition: Callable[[], object]) -> None:
    give_up = time.monotonic() + 120
    while not condition():
        if time.monotonic() > give_up:
            raise TimeoutError
        time.sleep(0.001)


@contextmanager
def _worker(pool: str, concurrency: int) -> Iterator[Worker]:
    queue = f"{pool.partition('.')[0]}-{concurrency}"
    command = [sys.executable, "-m", "celery", "--quiet", "--app", "celery_pool", "worker"]
    options = ["-P", "custom" if "." in pool else pool, "-c", str(concurrency), "-Q", queue]
    others = ["-n", f"{queue}@localhost", "--loglevel=ERROR", "--prefetch-multiplier=4"]
    quickly = ["--without-mingle", "--without-gossip", "--without-heartbeat"]
    environment = {**os.environ, "CELERY_CUSTOM_WORKER_POOL": pool if "." in pool else ""}
    with subprocess.Popen(
        [*command, *options, *others, *quickly],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        worker = Worker(process, queue)
        try:
            _wait(lambda: app.control.ping(destination=[f"{queue}@localhost"], timeout=1))
            yield worker
        finally:
            process.send_signal(signal.SIGTERM)


def throughput(worker: Worker) -> float:
    """Empty tasks a second, which were sent before the worker could have them."""
    connection = notes()
    connection.delete("stamps")
    worker.consume(False)
    worker.send(stamp, 1)
    worker.send(empty, EMPTY_TASKS)
    worker.send(stamp, 1)
    worker.consume(True)
    _wait(lambda: connection.llen("stamps") == 2)
    first, last = connection.lrange("stamps", 0, -1)
    return EMPTY_TASKS / (float(last) - float(first))


def _block(worker: Worker, count: int) -> list[str]:
    """Returns when so many tasks are blocked: their ids."""
    connection = notes()
    connection.delete("blocked", "ended")
    ids = worker.send(block, count)
    _wait(lambda: int(connection.get("blocked") or 0) == count)
    return ids


def revoke_seconds(worker: Worker) -> float:
    """Until all of the blocked tasks have ended, from before they are revoked."""
    ids = _block(worker, BLOCKED)
    connection = notes()
    begun = time.monotonic()
    app.control.revoke(ids, terminate=True)
    _wait(lambda: int(connection.get("ended") or 0) == BLOCKED)
    return time.monotonic() - begun


def _family(process: int) -> list[int]:
    path = Path(f"/proc/{process}/task/{process}/children")
    children = [int(child) for child in path.read_text().split()]
    return [process, *(relative for child in children for relative in _family(child))]


def _memory(process: int) -> int:
    """KiB of a process and its children, what they share counted once."""
    texts = [Path(f"/proc/{relative}/smaps_rollup").read_text() for relative in _family(process)]
    return sum(
        int(line.split()[1])
        for text in texts
        for line in text.splitlines()
        if line.startswith("Pss:")
    )


def memory_per_task(pool: str) -> float:
    """KiB that one more running task takes."""
    amounts = []
    for concurrency in (1, RUNNING):
        with _worker(pool, concurrency) as worker:
            _block(worker, concurrency)
            amounts.append(_memory(worker.process.pid))
            app.control.shutdown(destination=[f"{worker.queue}@localhost"])
            for relative in reversed(_family(worker.process.pid)):
                os.kill(relative, signal.SIGKILL)
    return (amounts[1] - amounts[0]) / (RUNNING - 1)


# ---- the report


def _compare_throughput(rounds: int) -> None:
    with _worker(POOL, 8) as ours, _worker("threads", 8) as threads:
        pairs = [(throughput(ours), throughput(threads)) for _ in range(rounds)]
    ratio = statistics.median(mine / other for mine, other in pairs)
    rates = [statistics.median(rates) for rates in zip(*pairs, strict=True)]
    print(f"empty tasks: {rates[0]:.0f}/s; -P threads {rates[1]:.0f}/s: {ratio:.2f} times its rate")


def _compare_memory(rounds: int) -> None:
    pairs = [(memory_per_task(POOL), memory_per_task("prefork")) for _ in range(rounds)]
    ratio = statistics.median(other / mine for mine, other in pairs)
    sizes = [statistics.median(sizes) for sizes in zip(*pairs, strict=True)]
    print(f"one more running task: {sizes[0]:.0f} KiB; prefork {sizes[1]:.0f} KiB: 1/{ratio:.0f}")


def _measure_revoke(rounds: int) -> None:
    with _worker(POOL, BLOCKED) as worker:
        times = [revoke_seconds(worker) * 1000 for _ in range(rounds)]
    print(
        f"revoke of {BLOCKED} tasks in recv: all ended after {statistics.median(times):.0f} ms"
        f" (median), {max(times):.0f} ms (worst)"
    )


POOL = f"{TaskPool.__module__}:{TaskPool.__qualname__}"


def main(rounds: int) -> None:
    _measure_revoke(rounds)
    _compare_throughput(rounds)
    _compare_memory(rounds)


def _run_in(folder: str) -> None:
    """Starts the server, and this program again, with the folder in its environment."""
    here = str(Path(__file__).parent)
    path = os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "IOWQ_BENCHMARK": folder, "PYTHONPATH": path}
    with ExitStack() as stack:
        server = ["redis-server", "--port", "0", "--unixsocket", f"{folder}/redis", "--save", ""]
        process = stack.enter_context(subprocess.Popen(server, stdout=subprocess.DEVNULL))
        stack.callback(process.terminate)
        _wait(Path(f"{folder}/redis").exists)
        subprocess.run([sys.executable, __file__, *sys.argv[1:]], env=environment, check=True)


if __name__ == "__main__":
    if _FOLDER:
        main(int((sys.argv[1:] or ["5"])[0]))
    else:
        with tempfile.TemporaryDirectory() as name:
            _run_in(name)
