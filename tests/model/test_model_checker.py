"""How workers wake each other: every run of a model, ``tests/model``, by the checker SPIN.

The tests of ``tests/core`` see some of the orders in which threads can go on; the checker
sees all, for a few threads and works. It looks for broken assertions, and for states
in which whoever is left sleeps for ever. Then the model itself is broken, one step at
a time, to see that the checker notices.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from ahead import LOW_PRIORITY_SECONDS

MODEL = Path(__file__).resolve().parent / "model.pml"
#: Safety: no cycles are looked for. Exhaustive: states are kept whole, compressed.
#: To optimize the checker takes longer than it saves.
CHECKER = ["gcc", "-O0", "-DSAFETY", "-DCOLLAPSE", "-DMEMLIM=2000"]
DEPTH = "-m20000"

ASSERTION = "assertion violated"
INVARIANT = "assertion violated (((q_len(runnable)==0)||"
SLEEPS = "invalid end state"


@dataclass(frozen=True)
class Check:
    """Something that holds, and the sizes for which every run is looked at."""

    name: str
    sizes: str

    def defines(self) -> list[str]:
        return [f"-D{define}" for define in self.sizes.split()]


@dataclass(frozen=True)
class Break(Check):
    """A step left out, and what the checker must say."""

    step: str
    finds: str

    def defines(self) -> list[str]:
        return [*super().defines(), f"-DBREAK_{self.step}"]


CHECKS = [
    Check("works_that_say_so_block_and_no_tick_is_needed", "SLOTS=3 WORKS=4 BLOCKERS=2 WAITS"),
    Check("as_many_block_as_the_limit_lets", "SLOTS=4 WORKS=4 BLOCKERS=3"),
    Check("ticks_may_come_early", "SLOTS=3 WORKS=4 BLOCKERS=2 TICKS IDLE_TIMEOUT"),
    Check(
        "works_block_without_a_word_and_ticks_are_enough", "SLOTS=3 WORKS=4 BLOCKERS=2 UNANNOUNCED"
    ),
    Check("works_are_taken_for_blocked_as_they_begin", "SLOTS=3 WORKS=4 BLOCKERS=2 PREDICTS"),
    Check("the_next_work_is_taken_for_blocked", "SLOTS=2 WORKS=4 BLOCKERS=1 PRODUCERS=2 PREDICTS"),
    Check(
        "works_are_taken_for_blocked_by_both",
        "SLOTS=3 WORKS=3 BLOCKERS=1 PREDICTS UNANNOUNCED TICKS IDLE_TIMEOUT",
    ),
    Check(
        "a_hook_blocks_as_it_frees_a_work", "SLOTS=3 WORKS=4 BLOCKERS=2 FREES UNANNOUNCED EARLY_END"
    ),
    Check(
        "idle_workers_end_while_works_come",
        "SLOTS=3 WORKS=4 BLOCKERS=2 UNANNOUNCED TICKS IDLE_TIMEOUT",
    ),
    Check("the_last_worker_ends_too", "SLOTS=2 WORKS=4 PRODUCERS=2 IDLE_TIMEOUT NONE_STAYS"),
    Check(
        "works_run_in_parallel_and_block_without_a_word",
        "SLOTS=3 WORKS=4 BLOCKERS=2 UNANNOUNCED PARALLEL",
    ),
    Check("works_run_in_parallel_and_wait", "SLOTS=3 WORKS=4 BLOCKERS=1 WAITS PARALLEL"),
    Check(
        "works_run_in_parallel_while_ticks_come_early",
        "SLOTS=3 WORKS=3 BLOCKERS=1 TICKS IDLE_TIMEOUT PARALLEL",
    ),
    Check("two_enqueue", "SLOTS=3 WORKS=4 BLOCKERS=1 PRODUCERS=2"),
    Check("waits_end_for_no_reason", "SLOTS=3 WORKS=3 BLOCKERS=1 TICKS IDLE_TIMEOUT SIGNALS"),
    Check("threads_cannot_be_made", "SLOTS=3 WORKS=3 FAILURES=2 TICKS IDLE_TIMEOUT"),
    Check("the_limit_changes", "SLOTS=3 WORKS=3 LIMITS IDLE_TIMEOUT"),
    Check(
        "the_limit_changes_while_works_block",
        "SLOTS=3 WORKS=3 BLOCKERS=1 LIMITS UNANNOUNCED IDLE_TIMEOUT",
    ),
    Check("the_queue_ends_at_any_time", "SLOTS=3 WORKS=3 BLOCKERS=1 EARLY_END"),
    Check(
        "the_queue_ends_among_time_outs",
        "SLOTS=2 WORKS=3 BLOCKERS=1 EARLY_END TICKS IDLE_TIMEOUT SIGNALS",
    ),
    Check("the_refused_get_in", "SLOTS=2 WORKS=4 BLOCKERS=1 PRODUCERS=2 MAX_PENDING=1"),
    Check(
        "the_refused_hear_of_the_end", "SLOTS=2 LIMIT=1 WORKS=3 PRODUCERS=2 MAX_PENDING=1 EARLY_END"
    ),
    Check("the_first_in_line_gets_in", "SLOTS=2 LIMIT=1 WORKS=3 PRODUCERS=3 MAX_PENDING=1 IN_LINE"),
    Check(
        "those_in_line_hear_of_the_end",
        "SLOTS=2 LIMIT=1 WORKS=3 PRODUCERS=2 MAX_PENDING=1 IN_LINE EARLY_END",
    ),
]

BREAKS = [
    Break("a_wake_up_is_forgotten", "SLOTS=2", "WAKE_FORGOTTEN", SLEEPS),
    Break("only_one_is_woken_in_a_section", "SLOTS=3", "ONE_WAKE_ONLY", SLEEPS),
    Break("asleep_is_set_unlocked", "SLOTS=2", "ASLEEP_SET_UNLOCKED", SLEEPS),
    Break("a_started_work_stays_queued", "SLOTS=2", "WORK_STAYS", ASSERTION),
    Break("need_worker_calls_a_second_standby", "SLOTS=2", "SECOND_STANDBY", ASSERTION),
    Break(
        "need_worker_does_not_wake_the_standby", "SLOTS=2 BLOCKERS=1", "STANDBY_NOT_WOKEN", SLEEPS
    ),
    Break("need_worker_does_not_wake_the_idle", "SLOTS=2", "IDLE_NOT_WOKEN", SLEEPS),
    Break("need_worker_ignores_the_limit", "SLOTS=2 LIMIT=1", "LIMIT", ASSERTION),
    Break("who_takes_work_calls_no_standby", "SLOTS=2", "TAKER_NEEDS_NONE", INVARIANT),
    Break(
        "who_takes_work_calls_no_standby_for_what_blocks",
        "SLOTS=2 BLOCKERS=1 UNANNOUNCED UNCHECKED",
        "TAKER_NEEDS_NONE",
        SLEEPS,
    ),
    Break("who_falls_idle_calls_no_standby", "SLOTS=2 WORKS=4 TICKS", "IDLE_NEEDS_NONE", INVARIANT),
    Break("who_ends_calls_no_standby", "SLOTS=2 LIMITS", "LEAVE_NEEDS_NONE", INVARIANT),
    Break("who_blocks_calls_no_standby", "SLOTS=2 BLOCKERS=1", "ANNOUNCE_NEEDS_NONE", SLEEPS),
    Break(
        "who_is_taken_for_blocked_as_its_work_begins_wakes_no_standby",
        "SLOTS=2 BLOCKERS=1 PRODUCERS=2 PREDICTS UNCHECKED",
        "IDLE_NEEDS_NONE",
        SLEEPS,
    ),
    Break("a_raised_limit_calls_no_standby", "SLOTS=2 LIMITS", "RAISED_LIMIT", INVARIANT),
    Break("a_standby_too_many_takes_work", "SLOTS=2 LIMITS", "CROWDED_TAKES", ASSERTION),
    Break(
        "a_tick_takes_none_for_blocked",
        "SLOTS=2 BLOCKERS=1 UNANNOUNCED",
        "NONE_TAKEN_FOR_BLOCKED",
        ASSERTION,
    ),
    Break(
        "a_tick_takes_none_for_blocked_where_works_run_in_parallel",
        "SLOTS=3 BLOCKERS=2 UNANNOUNCED PARALLEL",
        "NONE_TAKEN_FOR_BLOCKED",
        ASSERTION,
    ),
    Break("there_are_no_ticks", "SLOTS=2 BLOCKERS=1 UNANNOUNCED", "TICKS", SLEEPS),
    Break(
        "who_frees_a_work_has_the_next",
        "SLOTS=2 BLOCKERS=1 FREES UNANNOUNCED",
        "FREED_WITH_NEXT_WORK",
        SLEEPS,
    ),
    Break("a_refusal_arms_no_hook", "SLOTS=2 MAX_PENDING=1", "REFUSAL_ARMS_NO_HOOK", SLEEPS),
    Break("a_started_work_tells_of_no_room", "SLOTS=2 MAX_PENDING=1", "WORK_TELLS_NONE", SLEEPS),
    Break(
        "who_got_in_wakes_none_in_line",
        "SLOTS=2 PRODUCERS=2 MAX_PENDING=1 IN_LINE",
        "LINE_STOPS",
        SLEEPS,
    ),
    Break("the_last_work_ends_no_thread", "SLOTS=2 EARLY_END", "LAST_WORK_ENDS_NONE", SLEEPS),
    Break("the_end_wakes_none", "SLOTS=2", "EXIT_WAKES_NONE", SLEEPS),
    Break("the_end_of_a_standby_takes_a_tick", "SLOTS=2", "EXIT_TAKES_A_TICK", SLEEPS),
]


def _run(folder: Path, *command: str) -> str:
    if shutil.which(command[0]) is None:
        pytest.fail(f"{command[0]} is not installed; tests/packages.txt names what is needed")
    result = subprocess.run(
        command,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LOW_PRIORITY_SECONDS,
        check=False,
    )
    return result.stdout


def _way_there(folder: Path, check: Check) -> str:
    steps = _run(folder, "spin", "-k", "model.pml.trail", "-p", "-g", *check.defines(), str(MODEL))
    return "\n".join(steps.splitlines()[-400:])


def _report(folder: Path, check: Check) -> str:
    """What the checker says, having looked at everything or found an error."""
    defines = check.defines()
    said = _run(folder, "spin", "-a", *defines, str(MODEL))
    assert (folder / "pan.c").exists(), said
    assert "rror" not in said, said
    said = _run(folder, *CHECKER, "-o", "pan", "pan.c")
    assert (folder / "pan").exists(), said
    report = _run(folder, str(folder / "pan"), "-n", DEPTH)
    # neither is said as an error: both leave states out
    assert "max search depth too small" not in report, report
    assert "-DMEMLIM bound" not in report, report
    return report


def _report_with_way(folder: Path, check: Check) -> str:
    report = _report(folder, check)
    return report if "errors: 0" in report else report + _way_there(folder, check)


@pytest.mark.ahead(by=_report_with_way)
@pytest.mark.timeout(LOW_PRIORITY_SECONDS)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_holds_in_every_run(check: Check, ahead: str) -> None:
    assert "Full statespace search" in ahead, f"{check}: {ahead}"
    assert "errors: 0" in ahead, f"{check}: {ahead}"


@pytest.mark.ahead(by=_report)
@pytest.mark.timeout(LOW_PRIORITY_SECONDS)
@pytest.mark.parametrize("check", BREAKS, ids=lambda check: check.name)
def test_a_step_left_out_is_found(check: Break, ahead: str) -> None:
    assert "errors: 1" in ahead, f"{check}: {ahead}"
    assert check.finds in ahead, ahead
