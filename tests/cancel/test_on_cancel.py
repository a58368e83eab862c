"""``with iowq.on_cancel(...)``: the application's own way to stop what a work does."""

from __future__ import annotations

import socket
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import psycopg2
import pytest
import trio

import iowq
from iowq._cancel import on_cancel as module
from servers import connect, query
from support import DEADLINE, run_python, wait_until, wait_until_blocked


def _cancel(wq: iowq.WorkQueue, work: iowq.Work) -> float:
    """Returns how long that took.

    On a machine that is busy it doesn't tell whether the work ended by itself, or was
    interrupted after its second. What the work has seen does.
    """
    begun = time.monotonic()
    assert wq.cancel(work) is iowq.Cancel.RUNNING
    wait_until(work.done)
    return time.monotonic() - begun


def _enter(block: Callable[[threading.Event], object]) -> tuple[iowq.WorkQueue, iowq.Work]:
    """Runs block in a work; returns once it has said that it is inside."""
    wq = iowq.WorkQueue(1, on_error=lambda *_: None)
    inside = threading.Event()
    work = wq.enqueue(block, inside)
    assert inside.wait(DEADLINE)
    return wq, work


def test_it_is_called_once_and_the_work_may_end_by_itself() -> None:
    stop = threading.Event()
    calls: list[int] = []
    ended: list[str] = []

    def tell() -> None:
        calls.append(threading.get_ident())
        stop.set()

    def block(inside: threading.Event) -> None:
        with iowq.on_cancel(tell):
            inside.set()
            stop.wait(DEADLINE)  # which nothing interrupts before the call, nor for a second after
            ended.append("by itself")
            time.sleep(0.01)
            ended.append("to the end")

    wq, work = _enter(block)
    with wq:
        _cancel(wq, work)
        assert len(calls) == 1
        assert calls[0] not in (threading.get_ident(), wq.submit(threading.get_ident).result())
    assert ended == ["by itself", "to the end"]
    assert work.done()


def test_what_it_ends_with_counts_as_cancelled() -> None:
    ours, theirs = socket.socketpair()
    ended: list[str] = []

    def block(inside: threading.Event) -> None:
        with iowq.on_cancel(ours.shutdown, socket.SHUT_RDWR):
            inside.set()
            if not ours.recv(1):
                ended.append("by itself")
                raise ConnectionError("closed")

    with ours, theirs:
        wq, work = _enter(block)
        with wq:
            _cancel(wq, work)
    assert ended == ["by itself"]
    assert work.cancelled()


def test_a_work_that_goes_on_is_interrupted_after_its_second() -> None:
    calls: list[str] = []

    def block(inside: threading.Event) -> None:
        with iowq.on_cancel(calls.append, "called"):
            inside.set()
            time.sleep(60)

    wq, work = _enter(block)
    with wq:
        assert 0.9 < _cancel(wq, work) < 10
    assert work.cancelled()
    assert calls == ["called"]


def test_one_that_hangs_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither other works' cancel nor, for longer than a second, that of its own."""
    leave, interrupted = threading.Event(), threading.Event()

    def hanging() -> None:
        with iowq.on_cancel(leave.wait):
            try:
                time.sleep(60)
            finally:
                interrupted.set()

    with iowq.WorkQueue(2) as wq:
        works = [wq.enqueue(hanging), wq.enqueue(time.sleep, 60)]
        wait_until(lambda: all(work.running() for work in works))
        for worker in wq.workers():
            wait_until_blocked(worker.thread)
        with monkeypatch.context() as second:
            second.setattr(module, "PATIENCE", 10**9)  # it has no end, so who waits for it is seen
            wq.cancel_all()
            wait_until(works[1].done)
            assert not interrupted.is_set()
        assert interrupted.wait(10)
        time.sleep(0.1)
        assert not works[0].done()  # its `with` waits for the call
        leave.set()
        wait_until(works[0].done)
        assert works[0].cancelled()


def test_none_comes_after_the_block() -> None:
    """Whatever the instant of the cancel."""
    inside = [False]
    wrong: list[int] = []
    calls: list[int] = []
    outside = 0  # works that were ended there

    def call() -> None:
        calls.append(1)
        if not inside[0]:
            wrong.append(1)
        time.sleep(0.001)
        if not inside[0]:
            wrong.append(2)

    def work(seen: int) -> None:
        while len(calls) == seen:
            with iowq.on_cancel(call):
                inside[0] = True
                time.sleep(0.0005)
                # the call may be under way: the block waits for it, inside
            inside[0] = False

    with iowq.WorkQueue(1) as wq:
        for number in range(200):
            running = wq.enqueue(work, len(calls))
            wait_until(running.running)
            time.sleep(number % 7 / 3000)
            _cancel(wq, running)
            outside += len(calls) == number - outside
    assert len(calls) + outside == 200
    assert len(calls) > 100
    assert wrong == []


def test_a_work_that_enters_more_and_more_is_interrupted() -> None:
    calls: list[int] = []

    def block(inside: threading.Event) -> None:
        while True:
            with iowq.on_cancel(calls.append, 1):
                inside.set()
                time.sleep(0.001)

    wq, work = _enter(block)
    with wq:
        _cancel(wq, work)
    assert work.cancelled()
    assert calls


def test_nested_ones_are_called_from_the_innermost_on() -> None:
    calls: list[str] = []

    def block(inside: threading.Event) -> None:
        with iowq.on_cancel(calls.append, "outer"), iowq.on_cancel(calls.append, "left"):
            pass
        with iowq.on_cancel(calls.append, "outer"), iowq.on_cancel(calls.append, "inner"):
            inside.set()
            time.sleep(60)

    wq, work = _enter(block)
    with wq:
        _cancel(wq, work)
    assert calls == ["inner", "outer"]


def test_time_limits_call_it_too() -> None:
    calls: list[str] = []
    stop = threading.Event()

    def tell() -> None:
        calls.append("called")
        stop.set()

    def work() -> None:
        with iowq.on_cancel(tell), iowq.timeout(0.05):
            stop.wait(DEADLINE)
            raise ConnectionError("stopped")

    with iowq.WorkQueue(1) as wq:
        future = wq.submit(work)
        assert isinstance(future.exception(DEADLINE), TimeoutError)
        assert wq.submit(lambda: time.sleep(0.05)).exception(DEADLINE) is None
    assert calls == ["called"]


def test_what_it_raises_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    reports: list[Any] = []
    monkeypatch.setattr("sys.unraisablehook", reports.append)

    def fail() -> None:
        raise LookupError("no such query")

    def block(inside: threading.Event) -> None:
        with iowq.on_cancel(fail):
            inside.set()
            time.sleep(60)

    wq, work = _enter(block)
    with wq:
        _cancel(wq, work)
    assert work.cancelled()
    assert [str(report.exc_value) for report in reports] == ["no such query"]


def test_a_shield_inside_holds_it_back() -> None:
    calls: list[float] = []

    def block(inside: threading.Event) -> None:
        with iowq.on_cancel(lambda: calls.append(time.monotonic())):
            with iowq.shield():
                inside.set()
                time.sleep(0.2)
                calls.append(0)
            time.sleep(60)

    wq, work = _enter(block)
    with wq:
        _cancel(wq, work)
    assert len(calls) == 2
    assert calls[0] == 0


def test_outside_of_a_work_it_does_nothing() -> None:
    with iowq.on_cancel(print):
        pass
    twice = iowq.on_cancel(print)
    with twice, pytest.raises(RuntimeError, match="once at a time"):
        twice.__enter__()
    with twice:
        pass


def test_bad_argument() -> None:
    with pytest.raises(TypeError, match="fn must be callable, not int: 3"):
        iowq.on_cancel(3)  # type: ignore[arg-type]


def test_in_a_forked_child() -> None:
    """The parent's blocks are not the child's."""
    result = run_python("""
        import os, threading, time, iowq

        def work():
            with iowq.on_cancel(print, "called"):
                child = os.fork()
                if child == 0:
                    return
                assert os.waitpid(child, 0)[1] == 0

        def fork():
            with iowq.on_cancel(print, "called"):
                child = os.fork()
                if child == 0:
                    with iowq.on_cancel(print):
                        pass
                    os._exit(0)
                codes.append(os.waitpid(child, 0)[1])

        codes = []
        with iowq.WorkQueue(1) as wq:
            wq.submit(fork).result(20)
        print(codes)
    """)
    assert result.stdout == "[0]\n", result.stderr


# ---- real ones


def test_a_child_process_is_killed() -> None:
    children: list[subprocess.Popen[bytes]] = []
    ended: list[str] = []

    def block(inside: threading.Event) -> None:
        with subprocess.Popen(["sleep", "60"]) as child, iowq.on_cancel(child.kill):
            children.append(child)
            inside.set()
            child.communicate()
            ended.append("by itself")

    wq, work = _enter(block)
    with wq:
        _cancel(wq, work)
    assert ended == ["by itself"]
    assert children[0].returncode == -9


def test_sqlite_is_interrupted(tmp_path: Path) -> None:
    numbers = "with recursive n(i) as (select begin() union all select i + 1 from n)"
    errors: list[sqlite3.Error] = []
    with closing(sqlite3.connect(tmp_path / "database", check_same_thread=False)) as connection:

        def block(inside: threading.Event) -> None:
            def begin() -> int:
                inside.set()  # before that, interrupt() would do nothing
                return 1

            connection.create_function("begin", 0, begin)
            with iowq.on_cancel(connection.interrupt):
                try:
                    connection.execute(f"{numbers} select count(*) from n").fetchone()
                except sqlite3.Error as error:
                    errors.append(error)
                    raise

        wq, work = _enter(block)
        with wq:
            _cancel(wq, work)
        assert isinstance(errors[0], sqlite3.OperationalError)
        assert work.cancelled()
        assert connection.execute("select 1").fetchone() == (1,)


@pytest.mark.parametrize("library", [psycopg, psycopg2])
def test_a_postgresql_query_is_cancelled_and_its_connection_lives(
    postgresql: str, library: Any
) -> None:
    errors: list[BaseException] = []
    with (
        closing(connect(library, postgresql)) as connection,
        closing(connect(psycopg, postgresql)) as other,
    ):
        sleeping = (
            "select count(*) from pg_stat_activity"
            f" where pid = {connection.info.backend_pid} and wait_event = 'PgSleep'"
        )

        def block(inside: threading.Event) -> None:
            with iowq.on_cancel(connection.cancel):
                inside.set()
                try:
                    query(connection, "select pg_sleep(60)")
                except BaseException as error:
                    errors.append(error)
                    raise

        for _ in range(10):
            wq, work = _enter(block)
            with wq:
                # a server that hasn't begun with a query doesn't cancel it
                wait_until(lambda: query(other, sleeping) == (1,))
                _cancel(wq, work)
            assert isinstance(errors.pop(), library.errors.QueryCanceled)
            assert work.cancelled()
            assert query(connection, "select 1") == (1,)


def test_trio_is_ended_in_its_own_way() -> None:
    """Its loop's poll raises nothing; it would leave the thread inside of a run for ever."""

    async def main(inside: threading.Event) -> None:
        token = trio.lowlevel.current_trio_token()
        with (
            trio.CancelScope() as scope,
            iowq.on_cancel(lambda: token.run_sync_soon(scope.cancel)),
        ):
            inside.set()
            await trio.sleep_forever()
        raise iowq.Cancelled

    with iowq.WorkQueue(1) as wq:
        for _ in range(10):
            inside = threading.Event()
            work = wq.enqueue(trio.run, main, inside)
            assert inside.wait(DEADLINE)
            _cancel(wq, work)
            assert work.cancelled()


def test_trio_without_it_goes_on_and_is_sound() -> None:
    stop = trio.Event()
    tokens: list[trio.lowlevel.TrioToken] = []

    async def main() -> str:
        tokens.append(trio.lowlevel.current_trio_token())
        await stop.wait()
        return "to the end"

    with iowq.WorkQueue(1) as wq:
        future = wq.submit(trio.run, main)
        wait_until(lambda: tokens)
        wait_until_blocked(wq.workers()[0].thread)
        assert wq.cancel(future) is iowq.Cancel.RUNNING
        time.sleep(0.1)
        assert future.running()
        tokens[0].run_sync_soon(stop.set)
        assert future.result(DEADLINE) == "to the end"
