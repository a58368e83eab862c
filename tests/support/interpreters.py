"""The CPythons that the package's tests run on: those of this machine, and the newest ones.

The newest are packages of Debian's unstable suite, in a folder that debootstrap fills: 1 to 2
minutes, once; the folder is used again. What runs there has that suite's C library,
too. (It takes root, as mounting does.)

``python tests/support/interpreters.py`` lists them all, and makes the folder.
"""

from __future__ import annotations

import fcntl
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "iowq-tests"
SUITE = "sid"
#: The versions that are not on the machines that these tests are made for.
NEWEST = ("3.13", "3.14", "3.15")
#: What the tests use beside the interpreters; see packages.txt.
TOOLS = ("ca-certificates", "gcc", "gdb", "libc6-dev", "libmariadb-dev", "libnuma1")
MORE_TOOLS = (
    *("fuse3", "mariadb-server", "openssl", "pkgconf", "postgresql", "redis-server", "strace"),
    "util-linux",
)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Waits until no other process makes something in this folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class Interpreter(NamedTuple):
    """A CPython, and the folder that is the root of its system."""

    python: Path
    version: tuple[int, int, int]
    root: Path = Path("/")

    def __str__(self) -> str:
        return ".".join(map(str, self.version))

    def run(
        self, command: Sequence[str | Path], timeout: int, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command in its system, in a mount namespace of its own."""
        if self.root != Path("/"):
            command = ["unshare", "--mount", "sh", "-ec", _ENTER, "sh", self.root, *command]
        return subprocess.run(
            list(map(str, command)),
            cwd="/" if self.root != Path("/") else None,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )


_ENTER = """
root=$1
shift
mount -t proc proc "$root/proc"
mount -t sysfs sys "$root/sys"
mount --rbind /dev "$root/dev"
mount -t tmpfs tmpfs "$root/dev/shm"
exec chroot "$root" "$@"
"""


def _version_of(python: Path, root: Path = Path("/")) -> tuple[int, int, int] | None:
    code = "import sys; print(sys.implementation.name, *sys.version_info[:3])"
    command = [] if root == Path("/") else ["chroot", str(root)]
    try:
        result = subprocess.run(
            [*command, str(python), "-Ic", code],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    except OSError:
        return None
    match = re.fullmatch(r"cpython (\d+) (\d+) (\d+)\n", result.stdout)
    return (int(match[1]), int(match[2]), int(match[3])) if match else None


def of_this_machine() -> list[Interpreter]:
    """One of each minor version from 3.10 on, but for the one that runs this."""
    candidates = sorted(Path.home().glob(".pyenv/versions/3.*/bin/python3"))
    for minor in range(10, 20):
        found = shutil.which(f"python3.{minor}")
        candidates += [Path(found)] if found else []
    versions = {sys.version_info[:2]: Interpreter(Path(sys.executable), sys.version_info[:3])}
    for python in candidates:
        version = _version_of(python)
        if version and version >= (3, 10):
            versions.setdefault(version[:2], Interpreter(python, version))
    del versions[sys.version_info[:2]]
    return [interpreter for _version, interpreter in sorted(versions.items())]


def newest() -> list[Interpreter]:
    """The newest packages' interpreters. Makes the folder that they are in, if need be."""
    root = CACHE / f"{SUITE}-{platform.machine()}"
    complete = root / "complete"  # says what is in it
    with alone_in(CACHE):
        if not complete.exists() or complete.read_text() != _packages():
            _make(root)
    interpreters = []
    for name in NEWEST:
        python = Path(f"/usr/bin/python{name}")
        version = _version_of(python, root)
        if version is None:
            raise RuntimeError(f"{root} has no {python}: remove that folder, to have it made anew")
        interpreters.append(Interpreter(python, version, root))
    return interpreters


def _packages() -> str:
    pythons = [f"python{name}-{part}" for name in NEWEST for part in ("dev", "venv")]
    suites = [f"libpython{name}-testsuite" for name in NEWEST]
    return ",".join([*pythons, *suites, *TOOLS, *MORE_TOOLS])


def _make(root: Path) -> None:
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    include = f"--include={_packages()}"
    command = ["debootstrap", "--variant=minbase", include, SUITE, str(root)]
    result = subprocess.run([*command, mirror()], capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"debootstrap failed:\n{result.stdout[-4000:]}{result.stderr}")
    _copy_configuration(root)
    (root / "complete").write_text(_packages())


def mirror() -> str:
    """Where this machine has its own packages from."""
    command = ["apt-get", "indextargets", "--format", "$(SITE)", "Origin: Debian"]
    sites = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    if not sites:
        raise RuntimeError("apt knows no source of Debian's packages: run apt-get update")
    return sites[0]


def _copy_configuration(root: Path) -> None:
    """What this machine needs to reach its registries, that system needs, too."""
    files = [Path("/etc/resolv.conf"), Path("/etc/pip.conf"), Path("/etc/hosts")]
    certificates = (os.environ.get(name) for name in ("PIP_CERT", "SSL_CERT_FILE"))
    files += [Path(name) for name in certificates if name]
    for file in filter(Path.is_file, files):
        copy = root / file.relative_to("/")
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.unlink(missing_ok=True)
        shutil.copy(file, copy)


if __name__ == "__main__":
    print(*sys.version_info[:3], sys.executable)
    for interpreter in (*of_this_machine(), *newest()):
        print(*interpreter.version, interpreter.root / interpreter.python.relative_to("/"))
