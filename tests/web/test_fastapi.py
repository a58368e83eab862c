"""What Starlette and FastAPI can do beside a sync endpoint."""

from __future__ import annotations

from contextlib import closing

import pytest
from websockets.sync.client import connect

from support import DEADLINE, wait_until
from web import SLEEP, Site

pytestmark = pytest.mark.parametrize("framework", ["fastapi"], indirect=True)


def test_a_dependency_cleans_up_after_its_endpoint(site: Site) -> None:
    with site.ask("depends", name="depends"):
        wait_until(lambda: "begun" in site.events("depends"))
    wait_until(lambda: "cleaned" in site.events("depends"))
    assert site.events("depends") == ["begun", "ended", "ClientDisconnected", "cleaned"]


def test_a_dependency_cleans_up_when_time_is_up(hurried: Site) -> None:
    """And so does a stream that waits for its client."""
    with hurried.ask("endless", name="endless"):
        wait_until(lambda: hurried.events("endless") == ["begun"])
        assert hurried.get("depends", name="depends")[0] == 504
        wait_until(lambda: "cleaned" in hurried.events("depends"))
        wait_until(lambda: hurried.events("endless") == ["begun", "ended"])
    assert hurried.events("depends") == ["begun", "ended", "RequestTimeout", "cleaned"]


def test_a_stream_is_whole(site: Site) -> None:
    expected = "".join(f"{number}\n" for number in range(5))
    assert site.get("stream", lines=5) == (200, expected)


def test_streams_end_with_their_clients(site: Site) -> None:
    """Blocked in a query, or waiting for the client; what they hold is given back."""
    for _ in range(25):  # more than there are connections
        with closing(site.connect()) as client:
            client.request("GET", "/stream?lines=1000")
            with client.getresponse() as answer:
                assert answer.read(1)  # the headers come before the stream begins
    with site.ask("endless", name="endless"):
        wait_until(lambda: site.events("endless") == ["begun"])
    wait_until(lambda: site.events("endless") == ["begun", "ended"])
    site.check()


@pytest.mark.parametrize("leaves", [False, True])
def test_a_complete_answer_ends_nothing(site: Site, leaves: bool) -> None:
    """Tasks in the background go on, whether the client stays or leaves."""
    name = f"background {leaves}"
    with closing(site.connect()) as client:
        assert site.get("background", client, name=name) == (200, "done")
        if leaves:
            client.close()
        wait_until(lambda: site.events(name) == ["begun", "ended"])


def test_a_body_is_parsed(site: Site) -> None:
    with closing(site.connect()) as client:
        for numbers in ([1, 2], list(range(100_000))):
            headers = {"Content-Type": "application/json"}
            client.request("POST", "/total", body=str(numbers), headers=headers)
            with client.getresponse() as answer:
                assert answer.read() == b"%d" % sum(numbers)
        client.request("POST", "/total", body="[1, 2", headers=headers)
        with client.getresponse() as answer:
            assert answer.status == 422


@pytest.mark.parametrize("path", ["zero/report", "negative/report"])
def test_no_time_at_all(site: Site, path: str) -> None:
    with closing(site.connect()) as client:
        assert site.get(path, client, title="never", seconds=SLEEP)[0] == 504
        assert site.get("report", client, title="next", seconds=0) == (200, "next")


def test_websockets_pass_through(hurried: Site) -> None:
    """Without a time limit."""
    address = f"ws://127.0.0.1:{hurried.port}/echo"
    with connect(address, open_timeout=DEADLINE) as first, connect(address) as second:
        first.send("first")
        assert hurried.get("report", title="never", seconds=SLEEP)[0] == 504
        for websocket in (second, first):
            websocket.send("again")
        assert [first.recv(DEADLINE) for _ in range(2)] == ["FIRST", "AGAIN"]
        assert second.recv(DEADLINE) == "AGAIN"


def test_a_router_s_endpoints_end_with_their_clients(site: Site) -> None:
    with site.ask("routed", name="routed"):
        wait_until(lambda: "begun" in site.events("routed"))
    wait_until(lambda: "ended" in site.events("routed"))


def test_an_endpoint_calls_the_event_loop(site: Site) -> None:
    assert site.get("calls-back") == (200, "called back")
