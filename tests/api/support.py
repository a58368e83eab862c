"""What the tests of the Python API share."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable

DEADLINE = 30.0


def wait_until(condition: Callable[[], object], deadline: float = DEADLINE) -> None:
    """Waits until condition() is true; fails when time is up."""
    give_up = time.monotonic() + deadline
    while not condition():
        assert time.monotonic() < give_up, "the condition did not come true in time"
        time.sleep(0.0005)


class Blocker:
    """A callable that blocks until it is released."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self._open = threading.Event()

    def __call__(self) -> None:
        self.entered.release()
        assert self._open.wait(DEADLINE)

    def wait_entered(self, times: int = 1) -> None:
        for _ in range(times):
            assert self.entered.acquire(timeout=DEADLINE)

    def release(self) -> None:
        self._open.set()


def run_python(code: str, timeout: float = DEADLINE) -> subprocess.CompletedProcess[str]:
    """Runs code in a new interpreter of the same version."""
    return subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
