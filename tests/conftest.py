from __future__ import annotations

import importlib
import importlib.util
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import iowq
from ahead import _begin_beside, _begun_ahead, ahead, beside  # noqa: F401
from iowq._cancel import policy
from support import Blocker, Install

if importlib.util.find_spec("psycopg"):  # those of tests/numa have no servers
    from file_systems import faulty, overlay, small  # noqa: F401
    from loops import run  # noqa: F401
    from sample import fd, path, pipe  # noqa: F401
    from servers import folder, http, mariadb, postgresql, redis_socket  # noqa: F401
    from web import framework, hurried, other, site  # noqa: F401


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


@pytest.fixture
def no_second_best(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is ended is ended where that is best: cancel's patience, after which it takes other
    places, has no end. How long that takes says little on a machine that is busy."""
    monkeypatch.setattr(policy, "PATIENCE", 10**9)


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Installs a module of this text where pip would."""
    folder = tmp_path / "site-packages"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    names: list[str] = []

    def install(text: str) -> ModuleType:
        name = f"others_{len(names)}"
        names.append(name)
        (folder / f"{name}.py").write_text(textwrap.dedent(text))
        importlib.invalidate_caches()
        return importlib.import_module(name)

    yield install
    for name in names:
        del sys.modules[name]
