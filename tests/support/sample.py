"""A file, and a pipe, to be read and written, as pytest's fixtures."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

BYTES = random.Random(1).randbytes(300_000)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Of a file with these bytes."""
    path = tmp_path / "file"
    path.write_bytes(BYTES)
    return path


@pytest.fixture
def fd(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDWR)
    yield fd
    os.close(fd)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)
