"""The package's tests without a GIL, and under ThreadSanitizer: see support/without_gil.py."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import free_threaded
import without_gil
from ahead import LOW_PRIORITY_SECONDS
from free_threaded import run
from without_gil import Run

OURS = re.compile(r"(?:csrc|src/binding)/\S+\.[ch]:\d+|_native\.cpython")


def _make(_folder: Path, kind: str) -> Path:
    return free_threaded.python(kind)


@pytest.mark.ahead(by=_make)
@pytest.mark.timeout(LOW_PRIORITY_SECONDS)
@pytest.mark.parametrize("kind", free_threaded.KINDS)
def test_the_interpreter_has_no_gil(kind: str, ahead: Path) -> None:
    program = "import sysconfig; print(sysconfig.get_config_var('Py_GIL_DISABLED'))"
    assert run(ahead, "-c", program, cwd=ahead.parent) == "1\n", kind


@pytest.mark.beside(by=without_gil.run_tests)
@pytest.mark.timeout(3600)
def test_without_gil(beside: Run) -> None:
    program = "import iowq, iowq.aio, iowq.anyio, sys; print(sys._is_gil_enabled())"
    assert run(beside.python, "-W", "error", "-c", program, cwd=beside.python.parent) == "False\n"


def _own_races(report: str) -> Iterator[str]:
    """The races of a report in which one of the two accesses is the package's own.

    The rest are the interpreter's, with itself. A function of the sanitizer's is its caller's.
    """
    for race in re.split(r"^=+$", report, flags=re.MULTILINE):
        accesses = re.findall(r"^  \S.*\n((?:    #\d+ .*\n)+)", race, flags=re.MULTILINE)
        for access in accesses[:2]:
            frames = [frame for frame in access.splitlines() if "libtsan" not in frame]
            if frames and OURS.search(frames[0]):
                yield race
                break


RACE = """\
==================
WARNING: ThreadSanitizer: data race (pid=1)
  Write of size 1 at 0x1 by thread T2:
    #0 {}
    #1 _PyEval_EvalFrameDefault Python/generated_cases.c.h:1 (python3.13t+0x1)

  Previous read of size 1 at 0x1 by main thread:
    #0 memcpy <null> (libtsan.so.2+0x1)
    #1 _PyEval_EvalFrameDefault Python/generated_cases.c.h:2 (python3.13t+0x2)

SUMMARY: ThreadSanitizer: data race
==================
"""


def test_own_races_are_told_from_the_interpreters() -> None:
    ours = RACE.format("iowq_gil_acquire src/binding/gil.c:64 (_native.cpython-313t.so+0x1)")
    others = RACE.format("PyMember_GetOne Python/structmember.c:1 (python3.13t+0x1)")
    assert len(list(_own_races(ours + others + ours))) == 2


@pytest.mark.beside(by=without_gil.run_tests)
@pytest.mark.timeout(3600)
def test_under_thread_sanitizer(beside: Run) -> None:
    reports = [path.read_text(errors="replace") for path in beside.reports.iterdir()]
    races = [race for report in reports for race in _own_races(report)]
    assert not races, f"{len(races)} races, of which the first:\n{races[0]}"
