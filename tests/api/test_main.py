"""`python -m iowq`: the demonstration, and what it says when a promise is broken."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import iowq
from iowq.__main__ import main

SMALL = ["--files=4", "--lines=50", "--cancels=5", "--tasks=2000"]


#: As `python -m iowq`, where rich isn't installed.
WITHOUT_RICH = """
import runpy, sys
sys.modules["rich"] = None
runpy.run_module("iowq", run_name="__main__")
"""


@pytest.mark.parametrize("command", [["-m", "iowq"], ["-c", WITHOUT_RICH]], ids=["rich", "plain"])
def test_shows_what_the_pool_does(command: list[str]) -> None:
    result = subprocess.run(
        [sys.executable, *command, *SMALL],
        capture_output=True,
        text=True,
        timeout=120,
        env={"COLUMNS": "160"},
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "4 files x 50 appended lines" in result.stdout
    assert "0 lines torn, lost or out of order" in result.stdout
    assert "5 socket reads blocked, then cancelled" in result.stdout
    assert "0 not interrupted" in result.stdout
    assert "times its rate" in result.stdout
    assert "CPUs 0" in result.stdout
    assert ("pip install 'iowq[demo]'" in result.stdout) == (command[0] == "-c")


def test_a_broken_promise_is_seen(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A queue that loses a work in a hundred: lines are missing in the files."""
    enqueue_hashed = iowq.WorkQueue.enqueue_hashed
    numbers = itertools.count(1)

    def lossy(self: iowq.WorkQueue, key: Path, fn: Any, *args: Any) -> iowq.Work:
        if next(numbers) % 100 == 0:
            return enqueue_hashed(self, key, int)
        return enqueue_hashed(self, key, fn, *args)

    monkeypatch.setattr(iowq.WorkQueue, "enqueue_hashed", lossy)
    code = main(SMALL)
    assert code == 1
    assert "BROKEN" in capsys.readouterr().out


def test_bad_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--files=0"])
    assert "must be at least 1, not 0" in capsys.readouterr().err
