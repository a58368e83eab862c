"""No cancel ever skips a `finally`, an `except` or a `with`: see programs.py.

The long form: ``IOWQ_PROGRAMS=100000 .venv/bin/pytest tests/cancel/test_safepoints.py --timeout 0``
"""

from __future__ import annotations

import os
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import iowq
from programs import Grammar, Program

PROGRAMS = int(os.environ.get("IOWQ_PROGRAMS", "1000"))
SEED = int(os.environ.get("IOWQ_SEED", "0"))


def _check(wq: iowq.WorkQueue, text: str) -> int:
    try:
        return wq.submit(Program(text).cancel_at_each_safepoint).result()
    except BaseException as error:
        error.args = (f"{error}\n{text}",)
        raise


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_each_block_that_was_entered_is_left(data: st.DataObject) -> None:
    def choose(n: int) -> int:
        return data.draw(st.integers(0, n - 1))

    with iowq.WorkQueue(1) as wq:
        _check(wq, Grammar(choose).program())


@pytest.mark.filterwarnings("ignore::SyntaxWarning")
def test_many_programs() -> None:
    chance = random.Random(SEED)
    safepoints = 0
    with iowq.WorkQueue(1) as wq:
        for _ in range(PROGRAMS):
            safepoints += _check(wq, Grammar(chance.randrange).program())
    print(f"{PROGRAMS} programs were cancelled at {safepoints} safepoints")
    assert safepoints > PROGRAMS
