"""Coverage, debuggers and profilers see works that are cancelled as they see others."""

from __future__ import annotations

import cProfile
import json
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import iowq
from support import DEADLINE, FREE_THREADED, run_python, wait_until

HAS_MONITORING = sys.version_info >= (3, 12)
if HAS_MONITORING:
    monitoring: Any = sys.monitoring  # type: ignore[attr-defined, unused-ignore]

PROGRAM = """
import iowq, sys, threading, time

CANCELS = int(sys.argv[1])
go_on = True

def turn(n):
    m = n + 1
    return m

def loops():
    n = 0
    while go_on:
        n = turn(n) % 10
    return n

def after(x):
    y = x + 1
    return y

def cancelled():
    global go_on
    for _ in range(CANCELS):
        work = wq.enqueue(loops)
        while not work.running():
            time.sleep(0.001)
        time.sleep(0.005)
        wq.cancel(work)
        while not work.done():
            time.sleep(0.001)
    go_on = False
    wq.submit(loops).result()
    for n in range(3):
        wq.submit(after, n).result()

with iowq.WorkQueue(1) as wq:
    cancelled()
"""


@pytest.mark.parametrize("core", ["ctrace", "pytrace", "sysmon"])
def test_coverage_reports_the_same_with_cancels(core: str, tmp_path: Path) -> None:
    if core == "sysmon" and not HAS_MONITORING:
        core = "ctrace"
    if core == "ctrace" and FREE_THREADED:
        core = "pytrace"  # coverage has no other for that
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(PROGRAM))
    lines = []
    for cancels in ("0", "5"):
        data, report = tmp_path / f"data{cancels}", tmp_path / f"report{cancels}"
        environment = {**os.environ, "COVERAGE_FILE": str(data), "COVERAGE_CORE": core}
        run = [sys.executable, "-m", "coverage", "run", "--concurrency=thread"]
        for command in (
            [*run, "--include", str(program), str(program), cancels],
            [sys.executable, "-m", "coverage", "json", "-o", str(report)],
        ):
            subprocess.run(
                command, env=environment, cwd=tmp_path, check=True, capture_output=True, timeout=60
            )
        (file,) = json.loads(report.read_text())["files"].values()
        lines.append(set(file["executed_lines"]))
    of_loops = {n for n, line in enumerate(PROGRAM.splitlines(), 1) if line.startswith("    for _")}
    assert lines[1] >= lines[0]
    assert {26, 27} <= lines[1], "what runs after a cancel is missing"
    assert of_loops


def test_a_breakpoint_after_a_cancel_still_stops() -> None:
    """By `threading.settrace`, as debuggers do."""
    result = run_python("""
        import iowq, sys, threading, time
        stopped = []

        def trace(frame, event, arg):
            if frame.f_code.co_name == "after" and event == "line":
                stopped.append(frame.f_lineno)
            return trace

        def loop():
            while True:
                len([])

        def after():
            x = 1
            return x

        threading.settrace(trace)
        with iowq.WorkQueue(1) as wq:
            for _ in range(5):
                work = wq.enqueue(loop)
                while not work.running():
                    time.sleep(0.001)
                time.sleep(0.01)
                wq.cancel(work)
                wq.submit(after).result()
                assert work.cancelled()
        print(len(stopped))
    """)
    assert result.stdout == "10\n", result.stdout + result.stderr


@pytest.fixture
def _no_tracers() -> Iterator[None]:
    yield
    threading.settrace(None)
    threading.setprofile(None)


@pytest.mark.usefixtures("_no_tracers")
@pytest.mark.parametrize("install", [threading.settrace, threading.setprofile])
def test_no_exception_inside_a_tracer(install: Any) -> None:
    """It is in Python, loops, waits, and holds a lock: none of it may be torn."""
    inside = threading.Lock()
    seen: list[BaseException] = []
    calls: list[int] = []
    gate = threading.Lock()

    def helper() -> None:
        for _ in range(3):
            len("")

    def trace(_frame: Any, _event: str, _arg: object) -> Any:
        inside.acquire()
        try:
            helper()
            with gate:
                calls.append(1)
        except BaseException as error:
            seen.append(error)
            raise
        inside.release()
        return trace

    def f(n: int) -> int:
        return n

    def work() -> None:
        while True:
            f(1)

    install(trace)
    with iowq.WorkQueue(1) as wq:
        for n in range(40):
            running = wq.enqueue(work)
            wait_until(running.running)
            time.sleep(0.0003 * (n % 7))
            gate.acquire()  # it waits inside of the tracer, and is cancelled there
            wq.cancel(running)
            time.sleep(0.001)
            gate.release()
            wait_until(running.done)
            assert running.cancelled()
            count = len(calls)
            wq.submit(f, 1).result(DEADLINE)
            assert len(calls) > count, "the tracer was lost"
    assert not seen
    assert not inside.locked()


EVENTS = ["CALL", "LINE", "JUMP", "PY_START PY_RETURN", "INSTRUCTION"] if HAS_MONITORING else []


class _Tool:
    """A tool of sys.monitoring whose callback loops, and holds a lock."""

    def __init__(self, names: str, *codes: Any) -> None:
        self.seen: list[BaseException] = []
        self.inside = threading.Lock()
        self.codes = codes
        events = [getattr(monitoring.events, name) for name in names.split()]
        monitoring.use_tool_id(3, "t")
        for event in events:
            monitoring.register_callback(3, event, self)
        for code in codes:
            monitoring.set_local_events(3, code, sum(events))

    def __call__(self, *_: object) -> None:
        self.inside.acquire()
        try:
            for _n in range(2):
                len("")
        except BaseException as error:
            self.seen.append(error)
            raise
        self.inside.release()

    def close(self) -> None:
        for code in self.codes:
            monitoring.set_local_events(3, code, 0)
        monitoring.free_tool_id(3)


def test_no_exception_inside_a_monitoring_callback() -> None:
    held = threading.Lock()

    def f(n: int) -> int:
        return n

    def work() -> None:
        while True:
            with held:
                f(1)

    for names in EVENTS:
        with iowq.WorkQueue(1) as wq, closing(_Tool(names, f.__code__, work.__code__)) as tool:
            for n in range(60):
                running = wq.enqueue(work)
                wait_until(running.running)
                time.sleep(0.0003 * (n % 7))
                wq.cancel(running)
                wait_until(running.done)
                assert running.cancelled()
                assert not held.locked()
                assert wq.submit(sys.exc_info).result(DEADLINE) == (None, None, None)
            assert not tool.seen
            assert not tool.inside.locked()


def _spin(goes_on: bool) -> None:
    while goes_on:
        pass


def _spin_too_long() -> None:
    with pytest.raises(TimeoutError), iowq.timeout(0.01):
        _spin(True)


def test_a_profile_function_in_a_work_misses_nothing_in_its_time_limits() -> None:
    seen: Counter[tuple[str, str]] = Counter()

    def work() -> None:
        sys.setprofile(lambda frame, event, _: seen.update([(frame.f_code.co_name, event)]))
        for _ in range(20):
            _spin_too_long()
        sys.setprofile(None)

    with iowq.WorkQueue(1) as wq:
        wq.submit(work).result(DEADLINE)
    assert seen["_spin_too_long", "call"] == seen["_spin_too_long", "return"] == 20
    # time may be up before it has begun
    assert 0 < seen["_spin", "call"] == seen["_spin", "return"] <= 20


def test_a_profiler_in_a_work_survives_its_time_limits() -> None:
    """From 3.12 on cProfile has one stack for the calls of all threads.

    So what another thread calls meanwhile, and has not left at the end, or what it had called
    before and leaves meanwhile, costs it a count, or adds one.
    """

    def work() -> int:
        profile = cProfile.Profile()
        profile.enable()
        for _ in range(3):
            _spin_too_long()
        for _ in range(1000):
            _spin(False)
        profile.disable()
        (calls,) = [e.callcount for e in profile.getstats() if e.code is _spin.__code__]
        return calls

    with iowq.WorkQueue(1) as wq:
        assert 900 < wq.submit(work).result(DEADLINE) < 1100


def test_two_tools_more_than_there_is_room_for() -> None:
    """Works that compute go on, then, and cancel_support() says so."""
    if not HAS_MONITORING:
        return
    result = run_python("""
        import iowq, sys
        for tool in range(6):
            sys.monitoring.use_tool_id(tool, f"tool {tool}")
        support = iowq.cancel_support()
        print(support.python_code, support.system_calls, any("loop" in p for p in support.problems))
    """)
    assert result.stdout == "False True True\n", result.stdout + result.stderr
