from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import pytest

import iowq
from support import Blocker

if importlib.util.find_spec("psycopg"):  # the machines of tests/test_numa.py have no servers
    from servers import folder, http, mariadb, postgresql, redis_socket  # noqa: F401


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
