from __future__ import annotations

from collections.abc import Iterator

import pytest

import iowq
from servers import folder, http, mariadb, postgresql, redis_socket  # noqa: F401
from support import Blocker


@pytest.fixture
def wq() -> Iterator[iowq.WorkQueue]:
    with iowq.WorkQueue(8) as queue:
        yield queue


@pytest.fixture
def blocker() -> Iterator[Blocker]:
    """Released at the end, so that a failed test doesn't hang in close()."""
    blocker = Blocker()
    yield blocker
    blocker.release()
