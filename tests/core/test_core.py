"""The C core's own tests: plain, under the sanitizers, under valgrind, on musl.

Each test function of each ``test_*.c`` is run in a process of its own, in each variant
of the build. A compiler or tool that is missing fails its variant; what to
install stands in tests/packages.txt.
"""

from __future__ import annotations

import os
import re
import subprocess

import pytest

from core_builder import MUSL_GCC, ROOT, Builder, Variant, c_tests, environment_of

#: Shadow memory and randomised addresses don't go together on every kernel.
FIXED_ADDRESSES = ["setarch", "-R"]

VARIANTS = [
    Variant("gcc", ["gcc", "-O2"]),
    Variant("clang", ["clang", "-O2"]),
    Variant("perturbed", ["gcc", "-O2", "-DIO_WQ_PERTURB"]),
    Variant("musl", [*MUSL_GCC, "-O2"]),
    Variant(
        "tsan",
        ["gcc", "-O1", "-fsanitize=thread", "-DIO_WQ_PERTURB"],
        tuple(FIXED_ADDRESSES),
        (("TSAN_OPTIONS", "halt_on_error=1 die_after_fork=0"),),
    ),
    Variant(
        "asan-ubsan",
        ["gcc", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
        tuple(FIXED_ADDRESSES),
    ),
    Variant(
        "valgrind",
        ["gcc", "-O1"],
        ("valgrind", "-q", "--error-exitcode=99", "--leak-check=full", "--fair-sched=yes"),
    ),
]

#: Tests that mean nothing in a variant, and why.
EXCLUDED = {
    "perturbed": {
        "few_run_again_after_blocking": "each of its pauses looks like blocking",
        "work_that_computes_at_length_uses_few_workers": "each of its pauses looks like blocking",
    },
    "tsan": {
        "the_child_starts_anew": "no threads after fork: its own limitation",
        "a_child_has_its_own_page": "no threads after fork: its own limitation",
        "a_child_can_make_a_topology": "its allocator may stay locked: its own limitation",
        "a_child_is_not_left_with_half_a_library": "its allocator may stay locked",
        "only_trusted_callers_see_the_error": "calls handlers from frames of its own",
        "clean_up_has_a_grace_period": "calls handlers from frames of its own",
        "calls_that_hide_errors_are_ended_and_told": "calls handlers from frames of its own",
        "a_declared_wait_times_out": "calls handlers from frames of its own",
        "an_address_makes_its_object_trusted": "calls handlers from frames of its own",
        "a_connection_is_cut_off": "calls handlers from frames of its own",
        "a_mark_leaves_out_who_is_above_it": "calls handlers from frames of its own",
        "a_librarys_connection_is_cut_off_whoever_uses_it": "calls handlers from frames of its own",
        "what_is_no_connection_fails": "calls handlers from frames of its own",
        "naps_are_cut_short_one_after_the_other": "calls handlers from frames of its own",
        "works_that_never_end_hold_back_no_others": "calls handlers from frames of its own",
        "works_that_clean_up_hold_back_no_others": "calls handlers from frames of its own",
        "few_descriptors_stay_open": "calls handlers from frames of its own",
        "notice_comes_before_interruption": "calls handlers from frames of its own",
        "notice_is_given_once": "calls handlers from frames of its own",
    },
    "asan-ubsan": {
        "a_known_program_makes_no_library_known": "its own functions call for the library",
        "a_librarys_connection_is_cut_off_whoever_uses_it": "its own functions call for it",
    },
    "valgrind": {
        "a_child_is_not_left_with_half_a_library": "what the other thread had is lost in the child",
        "only_trusted_callers_see_the_error": "makes the system calls itself",
        "clean_up_has_a_grace_period": "makes the system calls itself",
        "calls_that_hide_errors_are_ended_and_told": "makes the system calls itself",
        "a_declared_wait_times_out": "makes the system calls itself",
        "an_address_makes_its_object_trusted": "makes the system calls itself",
        "a_connection_is_cut_off": "makes the system calls itself",
        "a_mark_leaves_out_who_is_above_it": "makes the system calls itself",
        "a_librarys_connection_is_cut_off_whoever_uses_it": "makes the system calls itself",
        "what_is_no_connection_fails": "makes the system calls itself",
        "naps_are_cut_short_one_after_the_other": "makes the system calls itself",
        "works_that_never_end_hold_back_no_others": "makes the system calls itself",
        "works_that_clean_up_hold_back_no_others": "makes the system calls itself",
        "few_descriptors_stay_open": "makes the system calls itself",
        "notice_comes_before_interruption": "makes the system calls itself",
        "notice_is_given_once": "makes the system calls itself",
        "what_is_in_memory_needs_no_worker": "knows no openat2",
        "what_is_on_the_disk_is_left_to_a_worker": "drops preadv2's flags",
        "a_long_queue_costs_others_nothing": "counts seconds",
        "work_that_does_not_block_uses_few_workers": "threads take turns: who runs looks blocked",
        "work_that_computes_at_length_uses_few_workers": "threads take turns: who runs blocks",
        "few_run_again_after_blocking": "threads take turns: who runs looks blocked",
        "a_work_that_forks_ends_in_the_child": "reports the leak that the test is about",
        "the_child_starts_anew": "reports the leak that the test is about",
        "a_child_is_no_guest": "reports the leak that the test is about",
        "a_child_has_its_own_page": "reports what the watcher had in the parent",
        "a_flush_ends_in_the_child": "reports the leak that the test is about",
        "a_child_can_make_a_topology": "reports what the other thread had in the parent",
    },
}


@pytest.fixture(scope="session")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    return Builder(tmp_path_factory.mktemp("core"))


@pytest.mark.parametrize(
    ("variant", "program", "name"),
    [
        pytest.param(variant, program, name, id=f"{variant.name}-{program}-{name}")
        for variant in VARIANTS
        for program, name in c_tests()
        if name not in EXCLUDED.get(variant.name, {})
    ],
)
def test_core(builder: Builder, variant: Variant, program: str, name: str) -> None:
    folder = builder.build(variant)
    result = subprocess.run(
        [*variant.wrapper, str(folder / program), name],
        env=environment_of(name, folder) | dict(variant.environment),
        capture_output=True,
        text=True,
        timeout=None if "IOWQ_STRESS" in os.environ else 200,
        check=False,
    )
    assert result.returncode == 0, f"exit {result.returncode}\n{result.stdout}\n{result.stderr}"


def test_every_source_of_the_core_is_in_the_package() -> None:
    listed = set(re.findall(r'"(csrc/[\w/]+\.[ch])"', (ROOT / "pyproject.toml").read_text()))
    assert listed == {str(p.relative_to(ROOT)) for p in (ROOT / "csrc").rglob("*.[ch]")}


def test_the_core_knows_no_python() -> None:
    sources = (ROOT / "csrc").rglob("*.[ch]")
    assert not [source.name for source in sources if "Python.h" in source.read_text()]
