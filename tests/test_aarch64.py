"""The C core's own tests on an aarch64 kernel, in a machine that QEMU emulates.

What differs there: the registers of an interrupted call, the signal's frame, the
unwinder, the atomics. Emulating a program alone would not do, for it has no
/proc/self/task/TID/syscall of its own. Of another processor's memory ordering
nothing shows: the emulation orders as the processor below does, or more strictly.

The kernel is Debian's, downloaded once and kept in ~/.cache/iowq-tests.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_core import ENVIRONMENT, ROOT, Builder, Variant, c_tests, run

COMPILER = "aarch64-linux-gnu-gcc"
LIBRARIES = ["ld-linux-aarch64.so.1", "libc.so.6", "libgcc_s.so.1"]
KERNEL = "linux-image-cloud-arm64"  # the smallest of Debian's
DEADLINE = 600  # seconds; 15 to 40 on a machine that does nothing else
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


# ---- the kernel


def _apt(command: str, *arguments: str, folder: Path) -> str:
    """Runs apt for aarch64, its state in folder: the machine's own is left as it is."""
    options = {
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64",
        "APT::Sandbox::User": "root",  # whoever that is: the folder is nobody else's
        "Acquire::Languages": "none",
        "Acquire::Retries": "3",
        "Dir::Cache": str(folder),
        "Dir::State": str(folder),
        "Dir::State::status": "/dev/null",  # nothing is installed
    }
    pairs = [f"-o{name}={value}" for name, value in options.items()]
    return run([command, *pairs, *arguments], timeout=300, folder=folder)


def _download(folder: Path) -> Path:
    (folder / "lists/partial").mkdir(parents=True)
    updated = _apt("apt-get", "update", folder=folder)
    depends = _apt("apt-cache", "depends", KERNEL, folder=folder)
    newest = re.search(r"Depends: (linux-image-\S+)", depends)
    assert newest, f"{KERNEL} is not to be had:\n{updated}{depends}"
    _apt("apt-get", "download", newest[1], folder=folder)
    (package,) = folder.glob("*.deb")
    run(["dpkg-deb", "--extract", str(package), str(folder / "package")])
    (kernel,) = folder.glob("package/boot/vmlinuz-*")
    return kernel


@pytest.fixture(scope="module")
def kernel() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "iowq-tests"
    kept = cache / "vmlinuz-arm64"
    if not kept.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            _download(Path(folder)).replace(kept)
    return kept


# ---- the file system


def _entry(name: str, mode: int, data: bytes = b"") -> bytes:
    """A file of a cpio archive of the kind "newc"."""
    links = 1  # or the kernel would take files of the same number for one
    fields = [0, mode, 0, 0, links, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0]
    header = b"070701" + b"".join(b"%08x" % field for field in fields) + name.encode() + b"\0"
    return b"".join(part + bytes(-len(part) % 4) for part in (header, data))


def _library(name: str) -> Path:
    path = Path(run([COMPILER, f"-print-file-name={name}"]).strip())
    assert path.exists(), f"{COMPILER} has no {name}; see tests/packages.txt"
    return path


def _plan() -> Iterator[str]:
    """What aarch64_init.c runs: a line for each test."""
    for program, name in TESTS:
        settings = [
            f"{key}={value.format(build='')}" for key, value in ENVIRONMENT.get(name, {}).items()
        ]
        yield " ".join([f"/{program}", name, *settings]) + "\n"


def _file_system(build: Path) -> bytes:
    init = build / "init"
    run([COMPILER, "-O2", "-static", str(ROOT / "tests/aarch64_init.c"), "-o", str(init)])
    programs = {path.name: path for path in [init, *build.glob("test_*"), *build.glob("*.so")]}
    libraries = {f"lib/{name}": _library(name) for name in LIBRARIES}
    return b"".join(
        [
            _entry("lib", 0o040755),
            _entry("tests", 0o100644, "".join(_plan()).encode()),
            *(
                _entry(name, 0o100755, path.read_bytes())
                for name, path in {**programs, **libraries}.items()
            ),
            _entry("TRAILER!!!", 0),
        ]
    )


# ---- the machine


def _boot(processor: str, kernel: Path, folder: Path) -> str:
    """Returns what was on the console when the power went off, or time was up."""
    console = folder / "console"
    command = [
        *("qemu-system-aarch64", "-M", "virt", "-cpu", processor, "-smp", "2", "-m", "512M"),
        *("-accel", "tcg,thread=multi", "-nodefaults", "-no-user-config", "-no-reboot"),
        *("-display", "none", "-serial", f"file:{console}"),
        *("-kernel", str(kernel), "-initrd", str(folder / "initrd")),
        *("-append", "console=ttyAMA0 rdinit=/init quiet panic=-1"),
    ]
    assert shutil.which(command[0]), f"{command[0]} is not installed; see tests/packages.txt"
    try:
        errors = subprocess.run(
            command, capture_output=True, text=True, timeout=DEADLINE, check=False
        ).stderr
    except subprocess.TimeoutExpired:
        errors = f"still on after {DEADLINE} s"
    # its exit status tells nothing: it is 0 after a kernel's panic, too
    return (console.read_text(errors="replace") if console.exists() else "") + errors


@pytest.fixture(scope="module", params=PROCESSORS)
def console(
    request: pytest.FixtureRequest, kernel: Path, tmp_path_factory: pytest.TempPathFactory
) -> str:
    folder = tmp_path_factory.mktemp("aarch64")
    build = Builder(folder).build(PROCESSORS[request.param])
    (folder / "initrd").write_bytes(_file_system(build))
    return _boot(request.param, kernel, folder)


@pytest.mark.timeout(DEADLINE + 900)  # the first one waits for all this
@pytest.mark.parametrize(("program", "name"), TESTS, ids=map("-".join, TESTS))
def test_on_aarch64(console: str, program: str, name: str) -> None:
    end = re.search(rf"(?ms)^begin /{program} {name}$(.*?)^exit (\d+)$", console)
    assert end, f"never ended; last on the console:\n{console[-3000:]}"
    assert end[2] == "0", f"exit {end[2]}{end[1]}"
