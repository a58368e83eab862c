"""``python -m iowq top``: another process is seen as it is, whatever it does."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from iowq.__main__ import main
from iowq._top import page
from iowq._top.live import draw
from iowq._top.look import Look
from iowq._top.page import HASHED, WAITING, WORKING, QueueSeen, Snapshot, WorkerSeen
from iowq._top.process import Process
from support import DEADLINE, run_python, running, wait_until


class Viewer:
    """Looks at a process, as the command line does."""

    def __init__(self, pid: int, capsys: pytest.CaptureFixture[str]) -> None:
        self._pid = pid
        self._capsys = capsys

    def look(self) -> dict[str, Any]:
        assert main(["top", str(self._pid), "--once", "--json"]) == 0
        return dict(json.loads(self._capsys.readouterr().out))

    def look_until(self, condition: Any) -> dict[str, Any]:
        seen: dict[str, Any] = {}

        def is_seen() -> object:
            seen.update(self.look())
            return condition(seen)

        wait_until(is_seen)
        return seen

    def refusal(self, *options: str) -> str:
        assert main(["top", str(self._pid), "--once", *options]) == 1
        captured = self._capsys.readouterr()
        assert captured.out == ""
        assert captured.err.count("\n") == 1
        return captured.err


WORKS = """
    import functools, os, socket, sys, threading, time
    from pathlib import Path
    import iowq

    class Job:
        def method(self):
            nap(self)

        def __call__(self):
            nap(self)

    def nap(*args):
        time.sleep(1000)

    def compute():
        while True:
            pass

    def wait():
        with lock:
            pass

    def receive():
        ours.recv(1)

    def naïve():
        nap()

    lock = threading.Lock()
    lock.acquire()
    ours, theirs = socket.socketpair()
    works = [Job().method, Job(), functools.partial(nap, 1), compute, wait, receive, naïve]
    works += [lambda: nap(1)]
    wq = iowq.WorkQueue(len(works) + 2, name="näme")
    for work in works:
        wq.enqueue(work)
    wq.enqueue(time.sleep, 1000)
    wq.within(1000).enqueue(nap)
    keys = ["text", "\\xe9t\\xe9", "\\u0101b", "\\U0001f600", 7, -7, 2**40, None, b"bytes"]
    keys += [(1, ("a", None))]
    for place, key in enumerate(keys):
        for _ in range(20 - place):
            wq.enqueue_hashed(key, nap)
    wq.unbounded.enqueue(nap)
    while wq.stats().running < 11:
        time.sleep(0.01)
    print("ready", flush=True)
    sys.stdin.read()
"""


BLOCKED_IN = {
    "__main__.receive": r"recvfrom\(fd=\d+ -> socket:\[\d+\]\)",
    "__main__.wait": r"a wait for a lock \(futex\)",
    "time.sleep": r"(clock_nanosleep|nanosleep|pselect6|select)\(\)",
}


def _are_blocked_as_they_should(seen: dict[str, Any]) -> bool:
    """Who computes has the GIL most of the time: others wait for it at first."""
    calls = {worker["work"]: worker["blocked_in"] or "" for worker in seen["workers"]}
    return len(seen["workers"]) == 11 and all(
        re.fullmatch(call, calls.get(work, "")) for work, call in BLOCKED_IN.items()
    )


def test_all_that_runs_and_is_pending_is_seen(capsys: pytest.CaptureFixture[str]) -> None:
    with running(WORKS) as program:
        viewer = Viewer(program.pid, capsys)
        seen = viewer.look_until(_are_blocked_as_they_should)
        (queue,) = seen["queues"]
        works = {worker["work"]: worker for worker in seen["workers"]}
        names = {"Job.method", "nap", "compute", "wait", "receive", "naïve", "<lambda>"}
        assert set(works) == {f"__main__.{name}" for name in names} | {"Job.__call__", "time.sleep"}
        assert all(0 <= worker["seconds"] < DEADLINE for worker in seen["workers"])
        assert sum(worker["unbounded"] for worker in seen["workers"]) == 1
        assert queue["name"] == "näme"
        assert (queue["running"], queue["workers"], queue["concurrency"]) == (11, 11, 10)
        assert queue["enqueued"] == 11 + sum(range(11, 21))
        assert queue["pending"] == sum(range(11, 21))
        keys = ["text", "été", "āb", "😀", 7, -7, 2**40, None, b"bytes", (1, ("a", None))]
        longest = [(repr(key), 20 - place) for place, key in enumerate(keys)]
        assert [(key["key"], key["works"]) for key in queue["longest_keys"]] == longest
        assert (queue["keys"], queue["keys_seen"]) == (10, 10)


def test_once_is_a_table_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    with running(WORKS) as program:
        Viewer(program.pid, capsys).look_until(lambda seen: len(seen["workers"]) == 11)
        assert main(["top", str(program.pid), "--once"]) == 0
        text = capsys.readouterr().out
        assert f"process {program.pid}: " in text
        assert "__main__.compute" in text
        assert "'text'" in text


HOLDS_THE_GIL = """
    import ctypes, sys, threading
    import iowq

    def hold():
        print("ready", flush=True)
        ctypes.PyDLL(None).sleep(1000)

    with iowq.WorkQueue(2) as wq:
        wq.enqueue_hashed("the key", hold)
        wq.flush()
"""


def test_no_python_code_of_the_process_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    with running(HOLDS_THE_GIL) as program:
        seen = Viewer(program.pid, capsys).look_until(
            lambda seen: seen["workers"][0]["blocked_in"] is not None
        )
        worker = seen["workers"][0]
        assert (worker["work"], worker["key"]) == ("__main__.hold", "'the key'")


BUSY = """
    import sys
    import iowq

    with iowq.WorkQueue(2) as wq:
        wq.submit(int).result()
        print("ready", flush=True)
        while True:
            for _ in range(1000):
                wq.enqueue(int)
            wq.flush()
"""


def test_rates_and_the_end_of_the_process() -> None:
    with running(BUSY) as program:
        command = [sys.executable, "-m", "iowq", "top", str(program.pid), "--json"]
        viewer = subprocess.Popen(
            [*command, "--interval=0.05"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert viewer.stdout is not None
        looks = [json.loads(viewer.stdout.readline()) for _ in range(3)]
        program.kill()
        program.wait()
        _, error = viewer.communicate(timeout=DEADLINE)
        assert looks[0]["queues"][0]["per_second"] is None
        rates = looks[2]["queues"][0]["per_second"]
        assert rates["finished"] > 100
        assert looks[2]["queues"][0]["wait_seconds"]["0.99"] > 0
        assert viewer.returncode == 1
        assert error == f"process {program.pid} cannot be watched: it has ended\n"


READS_A_PIPE = """
    import asyncio, os
    import iowq.files

    async def read():
        reader, writer = os.pipe()
        reading = iowq.files.pread(reader, 10, -1)
        print("ready", flush=True)
        await reading

    asyncio.run(read())
"""


def _reads_a_pipe(seen: dict[str, Any]) -> bool:
    worker = seen["workers"][0]
    return worker["work"] == "iowq.files: read" and "poll" in (worker["blocked_in"] or "")


def test_operations_on_files(capsys: pytest.CaptureFixture[str]) -> None:
    with running(READS_A_PIPE) as program:
        viewer = Viewer(program.pid, capsys)
        wait_until(lambda: main(["top", str(program.pid), "--once"]) == 0)
        capsys.readouterr()
        seen = viewer.look_until(_reads_a_pipe)
    assert seen["queues"][0]["name"] == "iowq-files"


FORKS = """
    import os, sys, time
    import iowq

    def of_parent():
        time.sleep(1000)

    def of_child():
        time.sleep(1000)

    wq = iowq.WorkQueue(1)
    wq.enqueue(of_parent)
    while not wq.stats().running:
        time.sleep(0.001)
    if not os.fork():
        wq.enqueue(of_child)
        while not wq.stats().running:
            time.sleep(0.001)
        print("ready", flush=True)
        sys.stdin.read()
        os._exit(0)
    sys.stdin.read()
    os._exit(0)
"""


def _child_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


def test_a_forked_child_is_seen_by_itself(capsys: pytest.CaptureFixture[str]) -> None:
    with running(FORKS) as program:
        child = _child_of(program.pid)
        try:
            for pid, name in (program.pid, "of_parent"), (child, "of_child"):
                (worker,) = Viewer(pid, capsys).look()["workers"]
                assert worker["work"] == f"__main__.{name}"
        finally:
            os.kill(child, signal.SIGKILL)


COMES_AND_GOES = """
    import sys
    import iowq

    wq = iowq.WorkQueue(1)
    print("ready", flush=True)
    for line in sys.stdin:
        if line == "work\\n":
            wq.submit(int).result()
        else:
            wq.close()
            wq = iowq.WorkQueue(1)
        print("done", flush=True)
"""


def test_queues_that_come_and_go(capsys: pytest.CaptureFixture[str]) -> None:
    with running(COMES_AND_GOES) as program:
        viewer = Viewer(program.pid, capsys)

        def do(what: str) -> None:
            assert program.stdin is not None
            assert program.stdout is not None
            program.stdin.write(what + "\n")
            program.stdin.flush()
            assert program.stdout.readline() == "done\n"

        for _ in range(2):
            assert "no queue of it has a worker" in viewer.refusal()
            do("work")
            assert viewer.look()["queues"][0]["finished"] == 1
            do("close")


def _is_stopped(pid: int) -> bool:
    stats = Path(f"/proc/{pid}/task").glob("*/stat")
    return all(stat.read_text().rpartition(")")[2].split()[0] == "T" for stat in stats)


def test_one_that_is_stopped(capsys: pytest.CaptureFixture[str]) -> None:
    with running(BUSY) as program:
        os.kill(program.pid, signal.SIGSTOP)
        wait_until(lambda: _is_stopped(program.pid))
        assert "it does not answer: it is stopped" in Viewer(program.pid, capsys).refusal()
        os.kill(program.pid, signal.SIGCONT)
        assert Viewer(program.pid, capsys).look()["queues"]


# ---- what can't be watched


def test_there_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    assert "there is no such process" in Viewer(process.pid, capsys).refusal()


def test_a_zombie(capsys: pytest.CaptureFixture[str]) -> None:
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert "it has ended" in Viewer(process.pid, capsys).refusal()
    process.wait()


def test_one_without_iowq(capsys: pytest.CaptureFixture[str]) -> None:
    with running("print('ready', flush=True); input()") as program:
        assert "it does not use iowq" in Viewer(program.pid, capsys).refusal()


AS_NOBODY = """
    import os, sys
    from iowq.__main__ import main

    main(["top", "0", "--once"])  # nobody may read the files of its modules
    if os.getuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    sys.exit(main(["top", "{pid}", "--once"]))
"""


def test_another_users() -> None:
    with running(BUSY) as program:
        pid = program.pid if os.getuid() == 0 else 1
        result = run_python(AS_NOBODY.format(pid=pid))
    assert result.returncode == 1, result.stderr
    assert "cannot be watched: it is root's, and may be looked into by that user" in result.stderr


@pytest.mark.parametrize("arguments", [["many"], ["1", "--interval=0"], ["1", "--interval=x"], []])
def test_bad_arguments(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["top", *arguments])
    assert end.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_without_a_terminal() -> None:
    with running(BUSY) as program:
        command = [sys.executable, "-m", "iowq", "top", str(program.pid)]
        result = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
    assert result.returncode == 2
    assert "the live view needs a terminal; --once and --json do without" in result.stderr


WITHOUT_RICH = """
import runpy, sys
sys.modules["rich"] = None
sys.argv = ["iowq", "top", *sys.argv[1:]]
runpy.run_module("iowq", run_name="__main__")
"""


def test_without_rich() -> None:
    with running(BUSY) as program:
        command = [sys.executable, "-c", WITHOUT_RICH, str(program.pid)]
        live = subprocess.run(command, capture_output=True, text=True, check=False)
        once = subprocess.run([*command, "--once"], capture_output=True, text=True, check=False)
    assert live.returncode == 2
    assert "pip install 'iowq[demo]'" in live.stderr
    assert once.returncode == 0
    assert "queues:" in once.stdout


# ---- the live view


def _resize(terminal: int, lines: int, columns: int) -> None:
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))


class Terminal:
    """A terminal with the viewer in it."""

    def __init__(self, pid: int) -> None:
        self._ours, theirs = pty.openpty()
        _resize(theirs, 24, 80)
        self.viewer = subprocess.Popen(
            [sys.executable, "-m", "iowq", "top", str(pid), "--interval=0.2"],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "", "LINES": ""},
        )
        os.close(theirs)
        self._text = b""

    def wait_for(self, text: str) -> None:
        """Reads on until it is there, from where the last wait ended."""
        end = time.monotonic() + DEADLINE
        while text.encode() not in self._text:
            ready, _, _ = select.select([self._ours], [], [], end - time.monotonic())
            assert ready, f"{text!r} is not in {self._text!r}"
            self._text += os.read(self._ours, 65536)
        self._text = self._text.partition(text.encode())[2]

    def resize(self, lines: int, columns: int) -> None:
        _resize(self._ours, lines, columns)

    def press(self, key: bytes) -> None:
        os.write(self._ours, key)

    def close(self) -> None:
        self.viewer.kill()
        self.viewer.wait()
        os.close(self._ours)


@contextmanager
def _terminal(pid: int) -> Iterator[Terminal]:
    terminal = Terminal(pid)
    try:
        yield terminal
    finally:
        terminal.close()


def test_the_live_view_in_a_terminal() -> None:
    with running(WORKS) as program, _terminal(program.pid) as terminal:
        terminal.wait_for("\x1b[?1049h")  # the other screen
        terminal.wait_for("keys with the most works")
        terminal.wait_for("__main__.")
        terminal.resize(12, 60)
        terminal.wait_for("more)")
        terminal.press(b"q")
        terminal.wait_for("\x1b[?1049l")
        assert terminal.viewer.wait(DEADLINE) == 0


def test_the_process_ends_while_it_is_shown() -> None:
    with running(BUSY) as program, _terminal(program.pid) as terminal:
        terminal.wait_for("99 % wait")
        program.kill()
        program.wait()
        terminal.wait_for("\x1b[?1049l")
        terminal.wait_for("it has ended")
        assert terminal.viewer.wait(DEADLINE) == 1


def test_ctrl_c_ends_it() -> None:
    with running(BUSY) as program, _terminal(program.pid) as terminal:
        terminal.wait_for("99 % wait")
        terminal.viewer.send_signal(signal.SIGINT)
        terminal.wait_for("\x1b[?1049l")
        assert terminal.viewer.wait(DEADLINE) == 0


def _large_look() -> Look:
    counts = dict.fromkeys([*page._COUNTS, *page._LEVELS], 10**9)
    queue = QueueSeen(
        1,
        "a-queue's-name" * 3,
        counts,
        (1,) * 32,
        300,
        300,
        1,
        10,
        5,
        (("'key'" * 12, 10**6),) * 10,
    )
    worker = WorkerSeen(
        1, 1, 1.0, 4_000_000, 0, WORKING | WAITING | HASHED, "module.work" * 8, "'k'", "call()" * 16
    )
    return Look(Snapshot(100.0, 0.1, (queue,) * 5, 0, (worker,) * 256, 7))


@pytest.mark.parametrize(("width", "height"), [(80, 24), (40, 10), (200, 60), (20, 3)])
def test_it_fits(width: int, height: int) -> None:
    with running(BUSY) as program:
        drawn = draw(Process(program.pid), _large_look(), height)
    file = io.StringIO()
    Console(file=file, width=width, height=height, force_terminal=False).print(drawn)
    lines = file.getvalue().rstrip("\n").split("\n")
    assert all(len(line) <= width for line in lines)
    if height >= 24:
        assert len(lines) <= height
        assert any("module.work" in line for line in lines)
