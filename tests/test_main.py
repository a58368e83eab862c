"""`python -m iowq`: the demonstration, and what it says when a promise is broken."""

from __future__ import annotations

import subprocess
import sys

import pytest

import iowq
from iowq.__main__ import main

SMALL = ["--files=4", "--lines=50", "--cancels=5", "--tasks=2000"]


def test_shows_what_the_pool_does() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "iowq", *SMALL],
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


def test_a_broken_promise_is_seen(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without the key's order, two writes a line tear, and the demonstration says so."""
    enqueue = iowq.WorkQueue.enqueue
    monkeypatch.setattr(
        iowq.WorkQueue, "enqueue_hashed", lambda self, _key, fn, *args: enqueue(self, fn, *args)
    )
    code = max(main(["--files=2", "--lines=3000", *SMALL[2:]]) for _ in range(5))
    assert code == 1
    assert "BROKEN" in capsys.readouterr().out


def test_bad_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--files=0"])
    assert "must be at least 1, not 0" in capsys.readouterr().err
