"""What tasks of a cluster do, and what they leave behind for the test to see: files."""

from __future__ import annotations

import collections
import itertools
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

from support import wait_until


class Trace:
    """A task's: when it began, and how it ended."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self, wait: Callable[[], object]) -> None:
        """What the task does: it waits."""
        self._write("begun", "")
        try:
            wait()
        except BaseException as error:
            self._write("ended", type(error).__name__)
            raise
        self._write("ended", "")

    def _write(self, what: str, text: str) -> None:
        new = self._path.with_suffix(".new")
        new.write_text(text)
        new.rename(self._path.with_suffix(f".{what}"))

    def has(self, what: str) -> bool:
        """Whether it has "begun", or "ended"."""
        return self._path.with_suffix(f".{what}").exists()

    def wait_for(self, what: str) -> str:
        """Returns what the task has raised; or nothing."""
        wait_until(lambda: self.has(what))
        return self._path.with_suffix(f".{what}").read_text()


def receive() -> None:
    """Blocks in a system call."""
    here, there = socket.socketpair()
    with here, there:
        here.recv(1)


def wait_for_an_event() -> None:
    """Blocks in a wait for another thread."""
    threading.Event().wait()


def compute() -> None:
    """Blocks in nothing."""
    while True:
        pass


# ---- the order of keys


def log_run(log: Path, key: str, number: int, seconds: float = 0.0) -> int:
    """A keyed task: writes its beginning and its end to the log of its key."""
    with (log / key).open("a", buffering=1) as file:
        file.write(f"{number} begin {os.getpid()}\n")
        time.sleep(seconds)
        file.write(f"{number} end {os.getpid()}\n")
    return number


def check_runs(log: Path, key: str, count: int) -> int:
    """Checks that a key's tasks ran one at a time, in order; returns how many ran again.

    Only a task whose worker was killed may have run again, before any later one.
    """
    runs = [line.split() for line in (log / key).read_text().splitlines()]
    begun = [(int(number), pid) for number, what, pid in runs if what == "begin"]
    numbers = [number for number, _ in begun]
    assert numbers == sorted(numbers)
    assert set(numbers) == set(range(count))
    for before, after in itertools.pairwise(runs):
        if before[1] == "begin" and after != [before[0], "end", before[2]]:
            assert after[:2] == before[:2], f"{after} while {before} runs"  # whose worker is dead
            assert after[2] != before[2]
    return len(numbers) - len(set(numbers))


def workers_of(log: Path, key: str) -> collections.Counter[str]:
    """Returns which processes have begun and ended how many of a key's tasks."""
    path = log / key
    lines = path.read_text().splitlines() if path.exists() else []
    return collections.Counter(line.split()[2] for line in lines if line.count(" ") == 2)


def kill(pid: int) -> None:
    """Ends a process as a machine that fails does."""
    os.kill(pid, signal.SIGKILL)
