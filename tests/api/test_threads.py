"""How many threads are awake, looked at from another process."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest

from support import DEADLINE, FREE_THREADED, running


def count_awake(pid: int) -> int:
    """Threads of the process that run, or would if there were a processor for them."""
    states = [
        stat.read_text().rpartition(")")[2] for stat in Path(f"/proc/{pid}/task").glob("*/stat")
    ]
    return sum(state.startswith(" R") for state in states)


@pytest.mark.parametrize(
    "run",
    [
        "for _ in range(1_000_000): wq.enqueue(int)",
        "for future in [wq.submit(int) for _ in range(1_000_000)]: future.result()",
    ],
    ids=["enqueue", "submit"],
)
def test_short_works_keep_two_threads_awake(run: str) -> None:
    """The one that enqueues, and a worker; without a GIL one on each CPU. A standby may look up
    at times."""
    at_most = 1 + (os.cpu_count() or 1 if FREE_THREADED else 1)
    seen: Counter[bool] = Counter()
    with running(f"""if True:
        import iowq
        with iowq.WorkQueue(32) as wq:
            print("ready", flush=True)
            {run}
            wq.flush()
            assert wq.stats().created <= 8, wq.stats()
    """) as child:
        give_up = time.monotonic() + 4 * DEADLINE  # a million works, on a machine that may be busy
        while child.poll() is None:
            try:
                seen[count_awake(child.pid) > at_most] += 1
            except OSError:
                continue  # a thread, or the last one, has just ended
            assert time.monotonic() < give_up
            time.sleep(0.0005)
        assert child.returncode == 0
    # 1 of 500 where nothing else runs; a thread that waits for a processor is awake, too
    assert seen[True] <= seen.total() / 3, seen


IDLE = """if True:
    import iowq, os, sys, threading, time

    def wake_up():
        while True:
            time.sleep(0.2)

    wq = iowq.WorkQueue(32, idle_timeout=0.1)
    for kind in (wq, wq.unbounded):
        for _ in range(16):
            kind.enqueue(time.sleep, 0.01)
    wq.flush()
    # the main thread, a worker, and the one that others may ask
    while wq.stats().workers > 1 or len(os.listdir("/proc/self/task")) > 3:
        time.sleep(0.01)
    {more}
    print("ready", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize(
    ("more", "threads", "is_silent"),
    [("", 3, True), ("threading.Thread(target=wake_up, daemon=True).start()", 4, False)],
    ids=["idle", "what wakes up is seen"],
)
def test_idle_workers_make_no_system_calls(more: str, threads: int, is_silent: bool) -> None:
    if shutil.which("strace") is None:
        pytest.fail("strace is not installed; tests/packages.txt names what is needed")
    with running(IDLE.format(more=more)) as child:
        command = ["timeout", "--signal=INT", "3", "strace", "-c", "-f", "-p", str(child.pid)]
        trace = subprocess.run(command, capture_output=True, text=True, check=False).stderr
    assert f"attached with {threads} threads" in trace
    assert ("% time" not in trace) == is_silent, trace
