"""A process's page, whose layout and protocol are those of ``csrc/io_wq_page.h``."""

from __future__ import annotations

import mmap
import os
import struct
import time
from dataclasses import dataclass
from pathlib import Path

from .._native import ffi, lib
from .errors import NoPageError, WatchError

NAME = "iowq-page"
MAGIC = b"iowqpage"
VERSION = 1
_HEAD = struct.Struct("=8sIIiIIIII")
_ENDED, _REQUEST, _ANSWERED, _SEQUENCE = 20, 24, 28, 32
_SNAPSHOT = struct.Struct("=qqIIII")
_WAITS, _KEYS = 32, 10
_QUEUE = struct.Struct(f"=8Q{_WAITS}Q12I" + "60sI" * _KEYS + "48s")
_WORKER = struct.Struct("=QQqiiII96s60s100s")
_QUEUES, _WORKERS = 32, 256
_QUEUES_AT = _HEAD.size + _SNAPSHOT.size
_WORKERS_AT = _QUEUES_AT + _QUEUES * _QUEUE.size
SIZE = _WORKERS_AT + _WORKERS * _WORKER.size
#: enum io_wq_page_flags
UNBOUND, WORKING, WAITING, CANCELLING, SHIELDED, HASHED = 1, 2, 4, 8, 16, 32


@dataclass(frozen=True)
class QueueSeen:
    """One queue: the names of ``wq.stats()``, and its longest keys."""

    id: int
    name: str
    counts: dict[str, int]
    waits: tuple[int, ...]
    concurrency: int
    unbounded: int
    nodes: int
    keys: int
    keys_seen: int
    longest_keys: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class WorkerSeen:
    """One worker, and what it runs."""

    queue: int
    number: int
    started: float | None
    thread: int
    node: int | None
    flags: int
    work: str
    key: str
    blocked_in: str


@dataclass(frozen=True)
class Snapshot:
    """What the process has answered."""

    taken: float
    cost: float
    queues: tuple[QueueSeen, ...]
    queues_left_out: int
    workers: tuple[WorkerSeen, ...]
    workers_left_out: int


_COUNTS = ("enqueued", "started", "finished", "failed", "cancelled", "created", "retired")
_LEVELS = ("pending", "longest", "running", "blocked", "workers", "idle")


def _text(data: bytes) -> str:
    return data.split(b"\0", 1)[0].decode("utf-8", "replace")


def _queue(data: bytes) -> QueueSeen:
    fields = _QUEUE.unpack(data)
    numbers, texts = fields[: 8 + _WAITS + 12], fields[8 + _WAITS + 12 :]
    levels = numbers[8 + _WAITS :]
    keys = [(_text(texts[2 * i]), texts[2 * i + 1]) for i in range(min(levels[11], _KEYS))]
    return QueueSeen(
        id=numbers[0],
        name=_text(texts[-1]),
        counts={
            **dict(zip(_COUNTS, numbers[1:8], strict=True)),
            **dict(zip(_LEVELS, levels[:6], strict=True)),
        },
        waits=tuple(numbers[8 : 8 + _WAITS]),
        concurrency=levels[6],
        unbounded=levels[7],
        nodes=levels[8],
        keys=levels[9],
        keys_seen=levels[10],
        longest_keys=tuple(keys),
    )


def _worker(data: bytes) -> WorkerSeen:
    queue, number, started, thread, node, flags, _, work, key, call = _WORKER.unpack(data)
    return WorkerSeen(
        queue=queue,
        number=number,
        started=started / 1e9 if started else None,
        thread=thread,
        node=node if node >= 0 else None,
        flags=flags,
        work=_text(work),
        key=_text(key),
        blocked_in=_text(call),
    )


def parse(data: bytes) -> Snapshot:
    """Returns what a copy of the page says."""
    taken, cost, queues, queues_out, workers, workers_out = _SNAPSHOT.unpack_from(data, _HEAD.size)
    queue_starts = range(_QUEUES_AT, _WORKERS_AT, _QUEUE.size)[:queues]
    worker_starts = range(_WORKERS_AT, SIZE, _WORKER.size)[:workers]
    return Snapshot(
        taken=taken / 1e9,
        cost=cost / 1e9,
        queues=tuple(_queue(data[at : at + _QUEUE.size]) for at in queue_starts),
        queues_left_out=queues_out,
        workers=tuple(_worker(data[at : at + _WORKER.size]) for at in worker_starts),
        workers_left_out=workers_out,
    )


class Page:
    """The page, mapped here.

    :param path: of the descriptor, in ``/proc/PID/fd``.
    :param pid: the process's, as it knows itself.
    :raises WatchError: if it is no page that this version reads.
    :raises NoPageError: if it is another process's, which this one has inherited.
    """

    def __init__(self, path: Path, pid: int) -> None:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            head = os.pread(fd, _HEAD.size, 0)
            _check(head, pid)
            self._memory = mmap.mmap(fd, SIZE)
        finally:
            os.close(fd)

    def close(self) -> None:
        """Unmaps it."""
        self._memory.close()

    def _word(self, at: int) -> int:
        return int.from_bytes(self._memory[at : at + 4], "little")

    def _ask(self) -> int:
        with ffi.from_buffer(self._memory) as buffer:
            lib.io_wq_ask_page(buffer)
        return self._word(_REQUEST)

    def _is_answered(self, request: int) -> bool:
        if self._word(_ENDED):
            raise NoPageError
        return (self._word(_ANSWERED) - request) % 2**32 < 2**31

    def look(self, timeout: float) -> Snapshot | None:
        """Asks the process, and returns what it answers; None: it doesn't, in that time.

        :raises NoPageError: no queue of the process has a worker any more.
        """
        request = self._ask()
        end = time.monotonic() + timeout
        while not self._is_answered(request):
            if time.monotonic() >= end:
                return None
            time.sleep(0.002)
        while True:
            before = self._word(_SEQUENCE)
            copy = self._memory[:]
            if before % 2 == 0 and before == self._word(_SEQUENCE):
                return parse(copy)


def _check(head: bytes, pid: int) -> None:
    if len(head) < _HEAD.size or head[:8] != MAGIC:
        raise NoPageError
    _, version, size, owner, ended = _HEAD.unpack(head)[:5]
    if version != VERSION or size != SIZE:
        raise WatchError(
            f"it uses another version of iowq, with a page of version {version} and {size} bytes:"
            f" this one reads version {VERSION}, of {SIZE}"
        )
    if owner != pid or ended:
        raise NoPageError
