"""Builds the core and its tests, ``tests/core/test_*.c``, in any variant."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "tests/core"
FLAGS = ["-std=gnu11", "-g", "-Wall", "-Wextra", "-Werror", "-pthread", f"-I{ROOT / 'csrc'}"]

#: musl-gcc knows musl's headers alone; of glibc's, the kernel's come after them.
MUSL_GCC = [
    *("musl-gcc", "-idirafter", "/usr/include"),
    *("-idirafter", f"/usr/include/{os.uname().machine}-linux-gnu"),
]

#: What tests need of it, by their names.
FAKE_NUMA = {"IOWQ_LIBNUMA": "{build}/libfake_numa.so"}
ENVIRONMENT: dict[str, dict[str, str]] = {
    "serial_and_in_order_across_nodes": FAKE_NUMA,
    "many_workers_of_two_nodes": FAKE_NUMA,
    "a_node_without_workers_gives_its_works_away": FAKE_NUMA,
    "a_node_gives_its_works_to_its_kind_first": FAKE_NUMA,
    "workers_are_bound_to_the_node_of_the_enqueuer": FAKE_NUMA,
    "a_worker_made_by_another_node_is_bound_to_its_own": FAKE_NUMA,
    "respects_the_affinity": FAKE_NUMA,
    "work_for_a_node_runs_there": FAKE_NUMA,
    "an_affinity_may_leave_a_node_without_workers": FAKE_NUMA,
    "a_worker_that_was_moved_returns_to_its_node": FAKE_NUMA,
    "a_known_program_makes_no_library_known": FAKE_NUMA,
    "a_mark_leaves_out_who_is_above_it": FAKE_NUMA,
    "a_librarys_connection_is_cut_off_whoever_uses_it": FAKE_NUMA,
    "without_libnuma_there_is_one_node": {"IOWQ_LIBNUMA": "no-such-library.so"},
    # The child can't free what it shares with threads that it doesn't have.
    "a_work_that_forks_ends_in_the_child": {"ASAN_OPTIONS": "detect_leaks=0"},
}


@dataclass(frozen=True)
class Variant:
    """One way to build and run the tests."""

    name: str
    compiler: list[str]
    wrapper: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()


def c_tests() -> list[tuple[str, str]]:
    tables = {
        source.stem: source.read_text().rpartition("TEST_MAIN(")[2]
        for source in sorted(TESTS.glob("test_*.c"))
    }
    return [
        (stem, name)
        for stem, table in tables.items()
        for name in re.findall(r"TEST\((\w+)\)", table)
    ]


def run(command: list[str], timeout: int = 120, folder: Path | None = None) -> str:
    if shutil.which(command[0]) is None:
        pytest.fail(f"{command[0]} is not installed; tests/packages.txt names what is needed")
    result = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=timeout, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def link_options(source: Path) -> list[str]:
    """What a test of the core needs of the linker."""
    return ["-Wl,--wrap=pthread_create"] if "__wrap_" in source.read_text() else []


def build_fake_numa(compiler: str, folder: Path) -> None:
    """Builds the library that environment_of() names."""
    library = str(folder / "libfake_numa.so")
    run([compiler, "-shared", "-fPIC", str(TESTS / "fake_numa.c"), "-o", library])


def environment_of(test: str, folder: Path) -> dict[str, str]:
    """What a test of the core finds, which was built in this folder."""
    needs = ENVIRONMENT.get(test, {})
    return {**os.environ, **{key: value.format(build=folder) for key, value in needs.items()}}


class Builder:
    """Builds each variant once, when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._pool = ThreadPoolExecutor(os.cpu_count())
        self._built: dict[str, Path] = {}

    def build(self, variant: Variant) -> Path:
        if variant.name not in self._built:
            folder = self._folder / variant.name
            folder.mkdir(exist_ok=True)
            self._compile(variant, folder)
            self._built[variant.name] = folder
        return self._built[variant.name]

    def _compile(self, variant: Variant, folder: Path) -> None:
        compiler = [*variant.compiler, *FLAGS]
        core = sorted((ROOT / "csrc").rglob("*.c"))
        objects = [str(folder / f"{source.stem}.o") for source in core]
        self._run_all(
            [*compiler, "-c", str(source), "-o", object_]
            for source, object_ in zip(core, objects, strict=True)
        )
        build_fake_numa(variant.compiler[0], folder)
        self._run_all(
            [
                *compiler,
                *link_options(source),
                *objects,
                str(source),
                "-o",
                str(folder / source.stem),
                "-ldl",
            ]
            for source in sorted(TESTS.glob("test_*.c"))
        )

    def _run_all(self, commands: Iterator[list[str]] | list[list[str]]) -> None:
        futures: list[Future[str]] = [self._pool.submit(run, command) for command in commands]
        for future in futures:
            future.result()
