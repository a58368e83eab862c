"""Requests that have two seconds, with the examples under their real servers."""

from __future__ import annotations

import http.client
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from support import DEADLINE, wait_until
from web import SLEEP, Site

if TYPE_CHECKING:
    from servers import Server


def test_time_is_up(hurried: Site, other: Server, framework: str) -> None:
    """All at once; the next answer on the same connection is the next request's."""

    def statuses(path: str, **query: object) -> tuple[int, int, str]:
        with closing(hurried.connect()) as client:
            status, _ = hurried.get(path, client, **query)
            return status, *hurried.get("report", client, title=path, seconds=0.3)

    with ThreadPoolExecutor(10) as clients:
        others = [
            clients.submit(statuses, path, title="never", seconds=SLEEP)
            for path in (["asynchronous", "old/report"] if framework == "django" else [])
        ]
        report = clients.submit(statuses, "report", title="never", seconds=SLEEP)
        fetch = clients.submit(statuses, "fetch", url=f"{other.url}/never")
        loop = clients.submit(statuses, "loop", name="loop")
        swallow = clients.submit(statuses, "swallow", name="swallow")
        cut_off = clients.submit(read_half, hurried)
    assert report.result() == (504, 200, "report")
    assert fetch.result() == (504, 200, "fetch")
    assert loop.result() == (504, 200, "loop")
    assert swallow.result() == (200 if framework == "flask" else 504, 200, "swallow")
    assert [future.result()[:2] for future in others] == [(504, 200)] * len(others)
    assert cut_off.result()
    assert other.abandoned.acquire(timeout=DEADLINE)
    assert "ended" in hurried.events("loop")
    assert "Cancelled" in hurried.events("swallow")
    wait_until(lambda: "ended" in hurried.events("half"))
    hurried.wait_for_queries(0)
    hurried.check()


def read_half(site: Site) -> bool:
    """Whether an answer that begins in time, and takes too long then, is cut off."""
    with closing(site.connect()) as client:
        client.request("GET", "/half?name=half")
        with client.getresponse() as answer:
            assert answer.status == 200
            with pytest.raises(http.client.IncompleteRead):
                answer.read()
    return True
