"""Works that block: sleeps, requests, files, and short works among them.

Each scenario returns what one of two executors does with it; ``run.py`` compares.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import requests
from typing_extensions import Self

import iowq

#: Makes an executor with so many workers.
MakeExecutor = Callable[[int], Executor]

IDLE_SECONDS = 10


class Outcome(NamedTuple):
    """What was measured."""

    seconds: float
    threads: int


def _threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


class Watch:
    """Counts the threads of this process at their most, by looking at them."""

    def __init__(self) -> None:
        self._before = _threads() + 1
        self.most = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def _look(self) -> None:
        while not self._stop.wait(0.005):
            self.most = max(self.most, _threads() - self._before)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


# ---- sleeps


def sleeps(make: MakeExecutor) -> float:
    """200 works that sleep 10 ms, on 64 workers. Returns ns per work."""
    with make(64) as executor:
        begun = time.perf_counter()
        wait([executor.submit(time.sleep, 0.01) for _ in range(200)])
        return (time.perf_counter() - begun) / 200 * 1e9


def idle_queue(workers: int) -> iowq.WorkQueue:
    """Returns a queue that had so many workers, of which all but one have retired."""
    wq = warm_queue(workers, idle_timeout=0.05)
    while wq.stats().workers > 1:
        time.sleep(0.01)
    return wq


def warm_queue(workers: int, idle_timeout: float = 5) -> iowq.WorkQueue:
    """Returns a queue that has so many workers, all idle."""
    wq = iowq.WorkQueue(workers, idle_timeout=idle_timeout)
    _begin_sleeping(wq, workers)
    return wq


def _begin_sleeping(executor: Executor, count: int) -> float:
    """Returns the seconds until so many works that sleep all run; waits for their end."""
    begun = time.perf_counter()

    def sleep() -> float:
        since = time.perf_counter() - begun
        time.sleep(0.03)
        return since

    return max([future.result() for future in [executor.submit(sleep) for _ in range(count)]])


def burst(make: MakeExecutor) -> float:
    """64 works that sleep, on 64 workers. Returns ns until all of them run."""
    with make(64) as executor:
        return _begin_sleeping(executor, 64) * 1e9


# ---- requests


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while (await reader.readuntil(b"\r\n\r\n")).startswith(b"GET"):
        await asyncio.sleep(0.005)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


async def _serve() -> None:
    server = await asyncio.start_server(_answer, "127.0.0.1", 0, backlog=200)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


@contextmanager
def http_server() -> Iterator[str]:
    """A server in a process of its own, which answers after 5 ms. Gives its address."""
    command = [sys.executable, __file__, "serve"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}/"
        process.kill()


def fetch(make: MakeExecutor, url: str) -> Outcome:
    """2,000 requests to it by 64 workers, each with a session of its own."""
    local = threading.local()

    def get() -> None:
        if not hasattr(local, "session"):
            local.session = requests.Session()
        local.session.get(url).raise_for_status()

    with make(64) as executor, Watch() as watch:
        begun = time.perf_counter()
        for future in [executor.submit(get) for _ in range(2000)]:
            future.result()
        seconds = time.perf_counter() - begun
    return Outcome(seconds, watch.most)


# ---- files

FILES, APPENDS, BLOCK = 64, 2000, bytes(4096)


def _append(descriptor: int) -> None:
    os.write(descriptor, BLOCK)


@contextmanager
def _files() -> Iterator[list[int]]:
    folder = Path(tempfile.mkdtemp(prefix="iowq-", dir="/var/tmp"))
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    descriptors = [os.open(folder / str(number), flags) for number in range(FILES)]
    try:
        yield descriptors
        assert all(os.fstat(fd).st_size == APPENDS * len(BLOCK) for fd in descriptors)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
        shutil.rmtree(folder)


def append_hashed() -> Outcome:
    """64 files, 2,000 appends of 4 KiB each, hashed by file."""
    with _files() as descriptors, iowq.WorkQueue(32) as wq, Watch() as watch:
        begun = time.perf_counter()
        for _ in range(APPENDS):
            for descriptor in descriptors:
                wq.enqueue_hashed(descriptor, _append, descriptor)
        wq.flush()
        return Outcome(time.perf_counter() - begun, watch.most)


def append_locked() -> Outcome:
    """The same with ThreadPoolExecutor(32) and a lock per file."""
    with _files() as descriptors, ThreadPoolExecutor(32) as pool, Watch() as watch:
        locks = {descriptor: threading.Lock() for descriptor in descriptors}

        def append(descriptor: int) -> None:
            with locks[descriptor]:
                _append(descriptor)

        begun = time.perf_counter()
        wait([pool.submit(append, fd) for _ in range(APPENDS) for fd in descriptors])
        return Outcome(time.perf_counter() - begun, watch.most)


def append_single() -> Outcome:
    """The same with an executor of one thread per file."""
    with _files() as descriptors, ExitStack() as stack, Watch() as watch:
        pools = {fd: stack.enter_context(ThreadPoolExecutor(1)) for fd in descriptors}
        begun = time.perf_counter()
        wait([pools[fd].submit(_append, fd) for _ in range(APPENDS) for fd in descriptors])
        return Outcome(time.perf_counter() - begun, watch.most)


# ---- short works among sleeps


class Mixture:
    """Short callables and 10 ms sleeps, mixed 9 to 1, for 32 workers."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._futures: list[Future[None]] = []
        self.waits: list[float] = []
        """Seconds from submit to start of each short one."""

    def _short(self, submitted: float) -> None:
        self.waits.append(time.perf_counter() - submitted)

    def submit(self, count: int) -> None:
        """Submits that many."""
        for number in range(count):
            if number % 10:
                future = self._executor.submit(self._short, time.perf_counter())
            else:
                future = self._executor.submit(time.sleep, 0.01)
            self._futures.append(future)

    def wait(self) -> None:
        """Waits for all of them."""
        for future in self._futures:
            future.result()


def mixed_at_once(make: MakeExecutor) -> float:
    """10,000 of them. Returns ns per work."""
    with make(32) as executor:
        mixture = Mixture(executor)
        begun = time.perf_counter()
        mixture.submit(10_000)
        mixture.wait()
        return (time.perf_counter() - begun) / 10_000 * 1e9


def mixed_in_bursts(make: MakeExecutor) -> float:
    """100 of them every 20 ms. Returns the ns within which 99 % of the short ones start."""
    with make(32) as executor:
        mixture = Mixture(executor)
        begun = time.perf_counter()
        for burst in range(50):
            time.sleep(max(0, begun + burst * 0.02 - time.perf_counter()))
            mixture.submit(100)
        mixture.wait()
    return statistics.quantiles(mixture.waits, n=100)[98] * 1e9


# ---- idleness

IDLE = f"""
import iowq, os, time
wq = iowq.WorkQueue(32, idle_timeout=0.2)
for _ in range(64):
    wq.enqueue(time.sleep, 0.01)
wq.flush()
time.sleep(1)
print(len(os.listdir("/proc/self/task")) - 1, flush=True)
time.sleep({IDLE_SECONDS})
os._exit(0)
"""


def idle() -> tuple[int, int]:
    """Returns the workers alive when idle, and the system calls that they make in 10 s."""
    with subprocess.Popen([sys.executable, "-c", IDLE], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        workers = int(process.stdout.readline())
        before = _switches(process.pid)
        time.sleep(IDLE_SECONDS - 1)
        calls = _switches(process.pid) - before
        process.kill()
    return workers, calls


def _switches(pid: int) -> int:
    """How often its threads were given a processor: one that isn't makes no calls."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        lines = (task / "status").read_text().splitlines()
        total += sum(int(line.split()[1]) for line in lines if "ctxt_switches" in line)
    return total


if __name__ == "__main__":
    asyncio.run(_serve())
