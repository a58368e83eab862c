"""What Django can do beside a sync view."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from support import wait_until
from web import SLEEP, Site

pytestmark = pytest.mark.parametrize("framework", ["django"], indirect=True)


@pytest.mark.parametrize("path", ["asynchronous", "old/report", "old/asynchronous"])
def test_a_query_ends_with_its_client(site: Site, path: str) -> None:
    """Of an async view; behind a sync middleware, which calls back to the event loop."""
    assert site.get(path, title="before", seconds=0) == (200, "before")
    with site.ask(path, title="never", seconds=SLEEP):
        site.wait_for_queries(1)
    site.wait_for_queries(0)
    assert site.get(path, title="after", seconds=0) == (200, "after")


@pytest.mark.parametrize("path", ["insert", "old/insert"])
def test_a_transaction_is_rolled_back(site: Site, path: str) -> None:
    with site.ask(path, name=path, seconds=SLEEP):
        wait_until(lambda: "begun" in site.events(path))
        site.wait_for_queries(1)
    site.wait_for_queries(0)
    assert site.get("count", name=path) == (200, "0")
    assert site.get(path, name=path, seconds=0) == (200, "done")
    assert site.get("count", name=path) == (200, "1")


@pytest.mark.parametrize(("view", "ended"), [("lite", "interrupted"), ("streamed", "ended")])
def test_a_view_ends_with_its_client(site: Site, view: str, ended: str) -> None:
    with site.ask(view, name=view):
        wait_until(lambda: "begun" in site.events(view))
    wait_until(lambda: ended in site.events(view))


def test_threads_end_with_their_requests(site: Site) -> None:
    with ThreadPoolExecutor(8) as clients:
        answers = clients.map(lambda _: site.get("threads")[0], range(100))
        assert set(answers) == {200}
    wait_until(lambda: int(site.get("threads")[1]) <= 2)  # this one's, and maybe the last one's
