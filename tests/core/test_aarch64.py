"""The C core's own tests on an aarch64 kernel, in a machine that QEMU emulates.

What differs there: the registers of an interrupted call, the signal's frame, the
unwinder, the atomics. Emulating a program alone would not do, for it has no
/proc/self/task/TID/syscall of its own. Of another processor's memory ordering
nothing shows: the emulation orders as the processor below does, or more strictly.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from core_builder import ROOT, Builder, Variant, c_tests, run
from machine import DEADLINE, Archive, boot, check_end, get_kernel, plan_line

COMPILER = "aarch64-linux-gnu-gcc"
LIBRARIES = ["ld-linux-aarch64.so.1", "libc.so.6", "libgcc_s.so.1"]
#: QEMU's name of each processor, and how to build for it.
PROCESSORS = {
    # the oldest: atomic operations are loops that try again
    "cortex-a57": Variant("cortex-a57", [COMPILER, "-O2"]),
    # has instructions for them, and for signing return addresses, which are
    # then no addresses for who walks the stack; impdef: signed by a fast method
    "max,pauth-impdef=on": Variant("max", [COMPILER, "-O2", "-mbranch-protection=standard"]),
}
#: Means nothing there: a processor that the emulation lets wait looks like blocked work.
EXCLUDED = {"few_run_again_after_blocking"}
TESTS = [(program, name) for program, name in c_tests() if name not in EXCLUDED]


def _library(name: str) -> Path:
    path = Path(run([COMPILER, f"-print-file-name={name}"]).strip())
    assert path.exists(), f"{COMPILER} has no {name}; see tests/packages.txt"
    return path


def _file_system(build: Path) -> bytes:
    init = build / "init"
    run([COMPILER, "-O2", "-static", str(ROOT / "tests/core/guest_init.c"), "-o", str(init)])
    archive = Archive()
    for path in [init, *build.glob("test_*"), *build.glob("*.so")]:
        archive.add_file(path, path.name)
    for name in LIBRARIES:
        archive.add_file(_library(name), f"lib/{name}")
    archive.add("tests", "".join(plan_line(*test) + "\n" for test in TESTS).encode())
    return archive.end()


def _boot(processor: str, folder: Path) -> str:
    build = Builder(folder).build(PROCESSORS[processor])
    initrd = folder / "initrd"
    initrd.write_bytes(_file_system(build))
    machine = ["qemu-system-aarch64", "-M", "virt", "-cpu", processor, "-smp", "2", "-m", "512M"]
    return boot(machine, get_kernel("arm64"), initrd, "ttyAMA0")


@pytest.fixture(scope="module")
def consoles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Future[str]]:
    """Of both machines, which run at once."""
    get_kernel("arm64")  # not twice
    pool = ThreadPoolExecutor()
    return {
        name: pool.submit(_boot, name, tmp_path_factory.mktemp("aarch64")) for name in PROCESSORS
    }


@pytest.fixture(params=PROCESSORS)
def console(request: pytest.FixtureRequest, consoles: dict[str, Future[str]]) -> str:
    return consoles[request.param].result()


@pytest.mark.timeout(DEADLINE + 900)  # the first one waits for all this
@pytest.mark.parametrize(("program", "name"), TESTS, ids=map("-".join, TESTS))
def test_on_aarch64(console: str, program: str, name: str) -> None:
    check_end(console, plan_line(program, name))
