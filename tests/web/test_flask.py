"""What gunicorn and Flask can do beside a view that answers."""

from __future__ import annotations

import http.client
import os
import signal
from contextlib import closing

import pytest

from support import wait_until
from web import SITES, SLEEP, Site, serve

pytestmark = pytest.mark.parametrize("framework", ["flask"], indirect=True)


@pytest.mark.parametrize("view", ["loop", "half"])
def test_teardown_functions_run(site: Site, view: str) -> None:
    with site.ask(view, name=f"torn {view}"):
        wait_until(lambda: "begun" in site.events(f"torn {view}"))
    wait_until(lambda: site.events(f"torn {view}")[-2:] == ["ended", "torn down"])


def test_a_stream_ends_with_its_client(site: Site) -> None:
    with site.ask("endless", name="endless") as client:
        assert client.recv(1)
    wait_until(lambda: "ended" in site.events("endless"))


def test_a_stream_ends_with_its_time_and_the_process_goes_on(hurried: Site) -> None:
    process = hurried.get("process")
    with closing(hurried.connect()) as reader, hurried.ask("late", name="late") as late:
        reader.request("GET", "/endless?name=endless")
        with reader.getresponse() as answer, pytest.raises(http.client.IncompleteRead):
            answer.read()
        assert late.recv(4096).startswith(b"HTTP/1.1 200")
    wait_until(lambda: "ended" in hurried.events("endless"))
    assert hurried.get("process") == process


def test_files_are_sent_whole(site: Site) -> None:
    expected = (SITES / "more_flask.py").read_text()
    assert site.get("file") == (200, expected.strip('"'))
    site.check()


def test_a_process_that_is_to_stop_ends_its_requests(framework: str, postgresql: str) -> None:
    """At once, or when --graceful-timeout has passed. --timeout 0 is no limit."""
    with serve(framework, postgresql, limit=0) as site:
        for stop in (signal.SIGQUIT, signal.SIGTERM):
            process = site.get("process")[1]
            with site.ask("report", title="never", seconds=SLEEP):
                site.wait_for_queries(1)
                os.kill(int(process), stop)
                site.wait_for_queries(0)
                wait_until(lambda: site.get("process")[1] != process)  # noqa: B023
