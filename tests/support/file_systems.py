"""File systems of a test's own. (They take root, as mounting does.)"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from support import wait_until


@contextmanager
def mounted(kind: str, folder: Path, options: str) -> Iterator[Path]:
    """A new file system of this kind, in a new folder."""
    folder.mkdir()
    subprocess.run(["mount", "-t", kind, "-o", options, kind, folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """One of 256 KiB, in memory."""
    with mounted("tmpfs", tmp_path / "small", "size=256k") as folder:
        yield folder


@pytest.fixture
def overlay(tmp_path: Path) -> Iterator[Path]:
    """One before another: ``file``, which has been in that one, is on the disk."""
    lower = tmp_path / "lower"
    lower.mkdir()
    with (lower / "file").open("wb") as file:
        file.write(b"0123456789" * 10_000)
        file.flush()
        os.fsync(file)
    with mounted("tmpfs", tmp_path / "memory", "size=10m") as memory:
        for name in ("upper", "work"):
            (memory / name).mkdir()
        options = f"lowerdir={lower},upperdir={memory / 'upper'},workdir={memory / 'work'}"
        with mounted("overlay", tmp_path / "overlay", options) as folder:
            yield folder


class Faulty:
    """A file system that fails and waits: see faulty.py."""

    def __init__(self, folder: Path) -> None:
        self.good, self.bad, self.slow = (folder / name for name in ("good", "bad", "slow"))
        program = Path(__file__).with_name("faulty.py")
        self._process = subprocess.Popen(
            [os.environ.get("IOWQ_FUSE_PYTHON", sys.executable), program, folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        wait_until(lambda: self._process.poll() is not None or folder.is_mount())
        assert self._process.poll() is None, "it takes FUSE: see packages.txt"

    def wait_until_waiting(self) -> None:
        """Until a request that has come waits for go_on()."""
        self._hear("waiting\n")

    def go_on(self, count: int = 1) -> None:
        """Lets so many requests go on, be they waiting or yet to come."""
        self._say("go on\n" * count)

    def have_looks_wait(self) -> None:
        """Requests for a file's status wait, too, from now on."""
        self._say("looks wait\n")
        self._hear("looks wait\n")

    def end(self) -> None:
        """All that waits for it fails."""
        self._process.kill()
        self._process.communicate()

    def _say(self, text: str) -> None:
        stream = self._stream(self._process.stdin)
        stream.write(text)
        stream.flush()

    def _hear(self, line: str) -> None:
        assert self._stream(self._process.stdout).readline() == line

    @staticmethod
    def _stream(stream: IO[str] | None) -> IO[str]:
        assert stream
        return stream


@pytest.fixture
def faulty(tmp_path: Path) -> Iterator[Faulty]:
    folder = tmp_path / "faulty"
    folder.mkdir()
    faulty = Faulty(folder)
    try:
        yield faulty
    finally:
        faulty.end()
        subprocess.run(["umount", "--lazy", folder], check=True)
