"""The examples, each under its real server: clients hang up, and requests' time is up."""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

from support import DEADLINE, wait_until
from web import SLEEP, Site

if TYPE_CHECKING:
    from servers import Server


def test_requests_are_answered(site: Site, other: Server) -> None:
    site.check()
    assert site.get("fetch", url=other.url) == (200, "still")


def test_a_query_ends_with_its_client(site: Site) -> None:
    with site.ask("report", title="never", seconds=SLEEP):
        site.wait_for_queries(1)
    site.wait_for_queries(0)
    site.check()


def test_a_request_to_another_server_ends_with_its_client(site: Site, other: Server) -> None:
    with site.ask("fetch", url=f"{other.url}/never"):
        assert other.received.acquire(timeout=DEADLINE)
    assert other.abandoned.acquire(timeout=DEADLINE)
    assert site.get("fetch", url=other.url) == (200, "still")


def test_hang_up_amid_the_request(site: Site) -> None:
    with closing(site.connect()) as client:
        client.connect()
    with closing(site.connect()) as client:
        client.putrequest("GET", "/report")
        client.send(b"X-Half: a he")
    with closing(site.connect()) as client:
        client.putrequest("POST", "/report?title=never&seconds=100")
        client.putheader("Content-Length", "1000")
        client.endheaders(b"half of the body")
    site.check()
    site.wait_for_queries(0)


def test_hang_up_after_the_answer(site: Site) -> None:
    for _ in range(20):
        client = site.ask("report", title="never", seconds=0)
        client.recv(1)
        client.close()
    site.check()


def test_200_hang_up_at_once(site: Site, other: Server) -> None:
    with ExitStack() as clients:
        for _ in range(100):
            clients.enter_context(site.ask("report", title="never", seconds=SLEEP))
            clients.enter_context(site.ask("fetch", url=f"{other.url}/never"))
        for _ in range(100):
            assert other.received.acquire(timeout=DEADLINE)
        site.wait_for_queries(20)  # as many as connections
    for _ in range(100):
        assert other.abandoned.acquire(timeout=DEADLINE)
    site.wait_for_queries(0)
    site.check()


def test_hang_up_at_any_instant(site: Site) -> None:
    """Those who stay have their own answers. No query is left behind, though the database is told
    too early to end some of them: those are ended when it finds their connections closed."""
    choose = random.Random(1)

    def client(number: int) -> None:
        title = f"title {number}"
        if number % 2:
            assert site.get("report", title=title, seconds=0.005) == (200, title)
            return
        with site.ask("report", title=title, seconds=SLEEP):
            time.sleep(choose.random() * 0.1)

    with ThreadPoolExecutor(16) as clients:
        list(clients.map(client, range(200)))
    site.check()
    site.wait_for_queries(0)


def test_what_others_run_goes_on(site: Site) -> None:
    with (
        site.ask("report", title="never", seconds=SLEEP),
        site.ask("report", title="never", seconds=SLEEP) as leaver,
        ThreadPoolExecutor(1) as clients,
    ):
        site.wait_for_queries(2)
        stays = clients.submit(site.get, "report", title="stays", seconds=1)
        leaver.close()
        assert stays.result() == (200, "stays")
        site.wait_for_queries(1)
    site.wait_for_queries(0)


# ---- views that make it hard


def test_a_loop_ends_with_its_client(site: Site) -> None:
    with site.ask("loop", name="loop"):
        wait_until(lambda: "begun" in site.events("loop"))
    wait_until(lambda: "ended" in site.events("loop"))


def test_swallowed(site: Site) -> None:
    with site.ask("swallow", name="swallow"):
        wait_until(lambda: "begun" in site.events("swallow"))
    wait_until(lambda: "Cancelled" in site.events("swallow"))
    site.check()


def test_a_begun_answer_ends_with_its_client(site: Site) -> None:
    with site.ask("half", name="half") as client:
        assert client.recv(4096).startswith(b"HTTP/1.1 200")
        wait_until(lambda: "begun" in site.events("half"))
    wait_until(lambda: "ended" in site.events("half"))


def test_bodies(site: Site) -> None:
    """Small and big ones, on one connection, with a client that hangs up amid another one."""
    with closing(site.connect()) as client:
        for size in (0, 1, 70_000, 2_000_000, 3):
            client.request("POST", "/length?name=body", body=b"x" * size)
            with client.getresponse() as answer:
                assert answer.read() == b"%d" % size
            with closing(site.connect()) as leaver:
                leaver.putrequest("POST", "/length?name=leaver")
                leaver.putheader("Content-Length", "2000000")
                leaver.endheaders(b"x" * size)
