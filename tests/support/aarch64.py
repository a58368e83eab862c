"""An emulated aarch64 machine with Debian's Python in it, and a wheel that pip has installed.

Time in there is what the processors have done, see machine.py: what the tests of the package
call a second is one, on a machine of any load.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from ahead import LOW_PRIORITY_SECONDS
from core_builder import ROOT, run
from interpreters import CACHE, alone_in
from machine import IN_ITS_OWN_TIME, Archive, apt, boot, get_kernel

#: And what they depend on. The tests use the programs.
PACKAGES = ("python3", "coreutils", "dash", "grep", "libnuma1", "openssl")
#: Takes space, and nobody reads it there.
NOT_NEEDED = ("usr/share/doc", "usr/share/locale", "usr/share/man")
#: What the tests import beside the package.
MODULES = ("pytest", "pytest-timeout")
#: The tags of wheels that Debian's glibc is new enough for.
GLIBC = ("manylinux2014", "manylinux_2_17", "manylinux_2_28")
TESTS = ("support", "api", "cancel")
MACHINE = "qemu-system-aarch64 -M virt -cpu cortex-a57 -smp 2 -m 1G"
ENVIRONMENT = "PATH=/usr/bin:/bin HOME=/tmp PYTHONPATH=/site"


def _fill(root: Path) -> None:
    """Unpacks the packages. What they would do when they are installed isn't done."""
    with tempfile.TemporaryDirectory(dir=CACHE) as place:
        folder = Path(place)
        for name in ("lists/partial", "archives/partial"):
            (folder / name).mkdir(parents=True)
        apt("arm64", "apt-get", "update", folder=folder)
        options = ("--yes", "--download-only", "--no-install-recommends")
        apt("arm64", "apt-get", "install", *options, *PACKAGES, folder=folder)
        for package in folder.glob("archives/*.deb"):
            run(["dpkg-deb", "--extract", str(package), str(root)])
    for name in NOT_NEEDED:
        shutil.rmtree(root / name, ignore_errors=True)


def _system() -> Path:
    """Returns the folder with Debian's packages, and makes it, if need be."""
    root, complete = CACHE / "aarch64", CACHE / "aarch64.complete"  # says what is in it
    with alone_in(CACHE):
        if not complete.exists() or complete.read_text() != " ".join(PACKAGES):
            shutil.rmtree(root, ignore_errors=True)
            root.mkdir()
            _fill(root)
            complete.write_text(" ".join(PACKAGES))
    return root


def _install(wheel: Path, system: Path, site: Path) -> None:
    """As pip would there."""
    (version,) = (path.name[len("python") :] for path in system.glob("usr/bin/python3.[0-9]*"))
    platforms = [f"--platform={name}_aarch64" for name in GLIBC]
    run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--target", str(site)),
            *(*platforms, f"--python-version={version}", "--only-binary=:all:"),
            *(str(wheel), *MODULES),
        ],
        timeout=LOW_PRIORITY_SECONDS,
    )


def _init(folder: Path) -> Path:
    source = ROOT / "tests/core/guest_init.c"
    run(["aarch64-linux-gnu-gcc", "-O2", "-static", str(source), "-o", str(folder / "init")])
    return folder / "init"


def _file_system(folder: Path, wheel: Path, plan: list[str]) -> bytes:
    system, site = _system(), folder / "site"
    _install(wheel, system, site)
    archive = Archive()
    archive.add_file(_init(folder), "init")
    archive.add_folder(system)
    archive.add_folder(site, "site")
    for name in ("pyproject.toml", "tests/conftest.py"):
        archive.add_file(ROOT / name, f"iowq/{name}")
    for name in TESTS:
        archive.add_folder(ROOT / "tests" / name, f"iowq/tests/{name}")
    archive.add("tests", "".join(line + "\n" for line in plan).encode())
    return archive.end()


def python_line(arguments: str) -> str:
    """A line of a plan: what Python is told to run."""
    return f"{ENVIRONMENT} /usr/bin/python3 {arguments}"


def run_plan(folder: Path, wheel: Path, plan: list[str]) -> str:
    """Returns what was on the machine's console: see check_end."""
    initrd = folder / "initrd"
    initrd.write_bytes(_file_system(folder, wheel, plan))
    kernel = get_kernel("arm64")
    pace, deadline = IN_ITS_OWN_TIME, LOW_PRIORITY_SECONDS
    return boot(MACHINE.split(), kernel, initrd, "ttyAMA0", pace, deadline)
