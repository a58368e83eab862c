"""Cancel of works inside other libraries, at random instants; the library's state after each.

The long form, which writes docs/guides/libraries.md:
``IOWQ_CANCELS=200 .venv/bin/pytest tests/project/test_soak.py --timeout 0``
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import random
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from soak_uses import USES, Places, Use

import iowq
from servers import Server, serving

ROOT = Path(__file__).resolve().parents[2]

DEADLINE = 30.0
CANCELS = int(os.environ.get("IOWQ_CANCELS", "10"))
_rows: dict[str, str] = {}


@pytest.fixture(scope="session")
def places(
    postgresql: str, mariadb: str, redis_socket: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Places]:
    with serving(Server()) as http:
        folder = tmp_path_factory.mktemp("soak")
        yield Places(postgresql, mariadb, redis_socket, http.url + "/", folder)


def _cancel_once(wq: iowq.WorkQueue, work: Any, seconds: float) -> tuple[float, str]:
    """Returns how long it took to end, and the name of what it ended with."""
    errors: list[str] = []  # no exceptions: these would keep its frames alive

    def watched() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(type(error).__name__)
            raise

    future = wq.submit(watched)
    give_up = time.monotonic() + DEADLINE
    while not future.running():
        assert time.monotonic() < give_up
        time.sleep(0.0002)
    time.sleep(seconds)
    begun = time.monotonic()
    future.cancel()
    while not future.done():
        if time.monotonic() > give_up:
            iowq.dump()
            pytest.fail("it goes on")
        time.sleep(0.0002)
    took = time.monotonic() - begun
    assert future.cancelled(), future.exception()
    return took, errors[0]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("use", USES, ids=lambda use: use.package)
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")
def test_survives(use: Use, places: Places) -> None:
    random_seconds = random.Random(use.package)
    took: list[float] = []
    seen: Counter[str] = Counter()
    with use.prepare(places) as (work, check), iowq.WorkQueue(1) as wq:
        check()
        for _ in range(CANCELS):
            seconds, name = _cancel_once(wq, work, random_seconds.uniform(0.001, 0.03))
            took.append(seconds)
            seen[name] += 1
            check()
    name = "psycopg2-binary" if use.package == "psycopg2" else use.package
    version = importlib.metadata.version(name)
    times = f"{statistics.median(took) * 1e3:.1f}, {max(took) * 1e3:.0f} ms"
    names = ", ".join(f"`{name}`" for name, _ in seen.most_common())
    row = f"| {use.package} {version} | {use.what} | {times} | {names} | yes | {use.recipe} |"
    _rows[use.package] = row


def test_the_page_lists_what_was_tried() -> None:
    """docs/guides/libraries.md is written by the long form, and names all of the table."""
    page = ROOT / "docs/guides/libraries.md"
    if CANCELS >= 200 and len(_rows) == len(USES):
        text = page.read_text()
        head, _, _ = text.partition("| library |")
        lines = [
            "| library | used for | ended in: median, worst | sees | sound after | recipe |",
            "| --- | --- | --- | --- | --- | --- |",
            *(_rows[use.package] for use in USES),
            "",
            f"{CANCELS} cancels each, at random instants, on CPython {platform.python_version()}.",
        ]
        page.write_text(head + "\n".join(lines) + "\n")
    text = page.read_text()
    assert len(USES) >= 30
    for use in USES:
        assert f"| {use.package} " in text, use.package
