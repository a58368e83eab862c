"""The demonstration that ``python -m iowq`` runs: real files, a real socket."""

from __future__ import annotations

import os
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from .._executor.queue import WorkQueue
from .._report.topology import topology
from .._work.work import Cancel, Cancelled

Advance = Callable[[], object]


@dataclass(frozen=True)
class Finding:
    """One row of the report."""

    what: str
    found: str
    ok: bool = True


def show_topology() -> Iterator[Finding]:
    """Yields a row per NUMA node, and one about libnuma."""
    machine = topology()
    for node in machine.nodes:
        memory = "" if node.memory is None else f", {node.memory / 2**30:.1f} GiB"
        name = "the machine, as one node" if node.id is None else f"NUMA node {node.id}"
        yield Finding(name, f"CPUs {_ranges(node.cpus)}{memory}")
    yield Finding("libnuma", machine.problem or "in use")


def append_to_files(files: int, lines: int, advance: Advance) -> Finding:
    """Appends numbered lines to real files through hashed work; reads them back."""

    def append(path: Path, number: int) -> None:
        # Two writes a line: torn, if another work of this file ran in between.
        with path.open("ab", buffering=0) as file:
            file.write(b"%06d " % number)
            file.write(b"x" * 80 + b"\n")
        advance()

    with tempfile.TemporaryDirectory(prefix="iowq-") as folder, WorkQueue() as wq:
        paths = [Path(folder, f"{number}.log") for number in range(files)]
        begun = time.perf_counter()
        for number in range(lines):
            for path in paths:
                wq.enqueue_hashed(path, append, path, number)
        wq.flush()
        seconds = time.perf_counter() - begun
        bad = sum(_count_bad_lines(path, lines) for path in paths)
    return Finding(
        f"{files} files x {lines} appended lines",
        f"{bad} lines torn, lost or out of order; {files * lines / seconds:,.0f} appends/s",
        ok=bad == 0,
    )


def _count_bad_lines(path: Path, lines: int) -> int:
    expected = [b"%06d " % number + b"x" * 80 for number in range(lines)]
    found = path.read_bytes().splitlines()
    return sum(a != b for a, b in zip(expected, found, strict=False)) + abs(
        len(expected) - len(found)
    )


class BlockedRead:
    """A callable that blocks in recv(2) on a socket that gets no data."""

    def __init__(self, reader: socket.socket) -> None:
        self._reader = reader
        self._thread: SimpleQueue[int] = SimpleQueue()
        self.is_ended = False
        self.ended_at = 0.0

    def __call__(self) -> None:
        self._thread.put(threading.get_native_id())
        try:
            self._reader.recv(1)
        except Cancelled:
            self.ended_at = time.perf_counter()
            self.is_ended = True
            raise

    def entered(self) -> bool:
        """Whether the callable has begun; the call may still be to come."""
        return not self._thread.empty()

    def wait_until_blocked(self) -> None:
        """Returns once the kernel says that the thread sleeps in its call."""
        recvfrom = {"x86_64": b"45 ", "aarch64": b"207 "}[os.uname().machine]
        call = Path(f"/proc/self/task/{self._thread.get()}/syscall")
        while not call.read_bytes().startswith(recvfrom):
            time.sleep(0.0001)


def cancel_blocked_reads(rounds: int, advance: Advance) -> Finding:
    """Cancels works that are blocked in a real socket read, one by one."""
    latencies = []
    bad = 0
    ours, theirs = socket.socketpair()
    with ours, theirs, WorkQueue(1) as wq:
        for _ in range(rounds):
            read = BlockedRead(ours)
            work = wq.enqueue(read)
            read.wait_until_blocked()
            begun = time.perf_counter()
            answer = wq.cancel(work)
            wq.flush(timeout=10)
            bad += not work.cancelled() or answer is not Cancel.RUNNING
            bad += not read.is_ended
            latencies.append(read.ended_at - begun)
            advance()
    return Finding(
        f"{rounds} socket reads blocked, then cancelled",
        f"ended after {statistics.median(latencies) * 1e6:.0f} us (median),"
        f" {max(latencies) * 1e6:.0f} us (worst); {bad} not interrupted",
        ok=bad == 0,
    )


def compare_rates(tasks: int, rounds: int, advance: Advance) -> Finding:
    """Tasks per second next to ThreadPoolExecutor: empty calls, turn by turn."""

    def empty() -> None:
        pass

    ours, theirs = [], []
    for _ in range(rounds):
        with WorkQueue() as wq:
            begun = time.perf_counter()
            for _ in range(tasks):
                wq.enqueue(empty)
            wq.flush()
            ours.append(time.perf_counter() - begun)
        advance()
        with ThreadPoolExecutor(4) as pool:
            begun = time.perf_counter()
            for future in [pool.submit(empty) for _ in range(tasks)]:
                future.result()
            theirs.append(time.perf_counter() - begun)
        advance()
    ratio = statistics.median(b / a for a, b in zip(ours, theirs, strict=True))
    return Finding(
        f"{tasks:,} empty tasks",
        f"{tasks / statistics.median(ours):,.0f}/s; ThreadPoolExecutor"
        f" {tasks / statistics.median(theirs):,.0f}/s; {ratio:.1f} times its rate",
    )


def _ranges(numbers: tuple[int, ...]) -> str:
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)
