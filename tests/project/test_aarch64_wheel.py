"""The wheel for aarch64 and glibc, installed and used: in an emulated machine with Python in it.

Cancel is what differs there, so its tests are what is run, beside those of queues: three minutes of
CPU time.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from aarch64 import python_line, run_plan
from ahead import LOW_PRIORITY_SECONDS
from machine import check_end
from published import make_twice

FILES = [
    "api/test_executor.py",
    "api/test_hashed.py",
    "api/test_queue.py",
    "cancel/test_blocking_calls.py",
    "cancel/test_cancel.py",
    "cancel/test_interrupt.py",
    "cancel/test_scopes.py",
    "cancel/test_support.py",
]
#: Minutes of an emulated processor each.
LEFT_OUT = {
    "cancel/test_interrupt.py": [
        "test_locks_taken_by_hand_are_given_back",
        "test_thousands_of_blocked_workers_are_freed",
    ],
}
DEMONSTRATION = python_line("-m iowq --files=4 --lines=50 --cancels=5 --tasks=2000")


def _line(name: str) -> str:
    path = f"/iowq/tests/{name}"
    left_out = "".join(f" --deselect=tests/{name}::{test}" for test in LEFT_OUT.get(name, []))
    return python_line(f"-m pytest -q --color=no -p no:cacheprovider {path}{left_out}")


def _run(folder: Path, made: tuple[Path, Path]) -> str:
    (wheel,) = made[0].glob("iowq-*-manylinux*_aarch64.whl")
    return run_plan(folder, wheel, [DEMONSTRATION, *map(_line, FILES)])


pytestmark = [
    pytest.mark.ahead(by=_run, after=make_twice, parametrized=False),
    pytest.mark.timeout(2 * LOW_PRIORITY_SECONDS),
]


def test_demonstration(ahead: str) -> None:
    printed = check_end(ahead, DEMONSTRATION)
    assert "0 lines torn, lost or out of order" in printed
    assert "0 not interrupted" in printed


@pytest.mark.parametrize("name", FILES)
def test_on_aarch64(ahead: str, name: str) -> None:
    printed = check_end(ahead, _line(name))
    left_out = re.search(r"(\d+) deselected", printed)
    assert int(left_out[1] if left_out else 0) == len(LEFT_OUT.get(name, [])), printed
