"""CPythons without a GIL, of which Debian has no packages: made from its source package.

Two of them: one as it is, and one that ThreadSanitizer watches. Each takes some minutes, once;
they are used again. cffi, too, is made from source: it refuses free-threaded 3.13 by a check
in its setup.py alone, which is left out here, for these tests.

``python tests/support/free_threaded.py`` makes both.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from ahead import LOW_PRIORITY_SECONDS
from interpreters import CACHE, alone_in, mirror

SUITE = "forky"
PACKAGE = "python3.13"
#: Reads shadow memory at fixed addresses, which the kernel's random ones may get in the way of.
FIXED_ADDRESSES = ("setarch", "-R")
#: How each is configured. The sanitizer's is compiled for speed of compiling, mostly.
KINDS = {
    "plain": ["OPT=-O2"],
    "sanitized": ["--with-thread-sanitizer", "OPT=-O1 -g"],
}
_OPTIONS = ["--disable-gil", "--without-ensurepip", "--disable-test-modules", "-q"]


def run(
    *command: str | Path, cwd: Path, timeout: int = LOW_PRIORITY_SECONDS, **environment: str
) -> str:
    """Returns what the command says; it must succeed. After ``timeout`` seconds Python says
    where each of its threads is, and ends."""
    limit = ["timeout", "--signal=ABRT", "--kill-after=30", str(timeout)]
    result = subprocess.run(
        [*limit, *FIXED_ADDRESSES, *map(str, command)],
        cwd=cwd,
        env={**os.environ, "PYTHONFAULTHANDLER": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert result.returncode == 0, f"{command} failed:\n{result.stdout[-20000:]}"
    return result.stdout


def download(folder: Path, kind: str, *command: str) -> None:
    """Has apt, with a configuration of its own, fetch packages ("deb") or sources ("deb-src")."""
    for name in ("lists/partial", "cache/archives/partial", "parts"):
        (folder / "apt" / name).mkdir(parents=True, exist_ok=True)
    sources = folder / "apt/sources.list"
    sources.write_text(f"{kind} {mirror()} {SUITE} main\n")
    configuration = folder / "apt/apt.conf"
    configuration.write_text(
        f'Dir::Etc::sourcelist "{sources}";\n'
        f'Dir::Etc::sourceparts "{folder}/apt/parts";\n'
        f'Dir::State::lists "{folder}/apt/lists";\n'
        f'Dir::Cache "{folder}/apt/cache";\n'
    )
    for step in ("update",), command:
        run("apt-get", "-qq", *step, cwd=folder, APT_CONFIG=str(configuration))


def _unpack(archive: Path, folder: Path) -> Path:
    """Returns the one folder that the archive holds, in this one."""
    with tarfile.open(archive) as tar:
        tar.extractall(folder)
    return next(path for path in folder.iterdir() if path.is_dir())


def unpack_source(folder: Path) -> Path:
    """Returns the folder with the interpreter's sources, in this one."""
    sources = CACHE / "free-threaded" / "source"
    with alone_in(sources):
        if not list(sources.glob("*.orig.tar.xz")):
            download(sources, "deb-src", "source", "--download-only", PACKAGE)
    (archive,) = sources.glob("*.orig.tar.xz")
    return _unpack(archive, folder)


def _make(kind: str, folder: Path) -> None:
    build = folder / "build"
    shutil.rmtree(build, ignore_errors=True)
    build.mkdir(parents=True)
    source = unpack_source(build)
    silent = "exitcode=0 report_bugs=0"
    run(
        "./configure",
        *_OPTIONS,
        *KINDS[kind],
        f"--prefix={folder}",
        cwd=source,
        TSAN_OPTIONS=silent,
    )
    run("make", "-j2", cwd=source, TSAN_OPTIONS=silent)
    # not to compile the library's modules, thrice, takes a minute less
    install = ["make", "commoninstall", "bininstall", "PYTHON_FOR_BUILD=true"]
    run(*install, cwd=source, TSAN_OPTIONS=silent)
    (library,) = (folder / "lib").glob("python3.*t")
    shutil.copytree(source / "Lib/test", library / "test")  # which the tests run, too
    shutil.rmtree(build)


def python(kind: str) -> Path:
    """Returns an interpreter of this kind, and makes it, if need be."""
    folder = CACHE / "free-threaded" / kind
    with alone_in(folder):
        if not (folder / "complete").exists():
            _make(kind, folder)
            (folder / "complete").touch()
    (found,) = (folder / "bin").glob("python3.*t")
    return found


def cffi(folder: Path) -> Path:
    """Returns cffi's source, without its check, in this folder."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary=:all:"]
    run(*pip, "cffi", cwd=folder)
    (archive,) = folder.glob("cffi-*.tar.gz")
    source = _unpack(archive, folder)
    setup = source / "setup.py"
    text, changes = re.subn(r"if FREE_THREADED_BUILD and .*:\n(?: +.*\n)+", "", setup.read_text())
    assert changes == 1, "cffi's check has changed: see its setup.py"
    setup.write_text(text)
    return source


if __name__ == "__main__":
    for kind in KINDS:
        print(python(kind))
