"""Machines that QEMU emulates: Debian's kernels, and file systems for them.

The kernels are downloaded once and kept in ~/.cache/iowq-tests. No disk, no network, no
modules: all that a machine has is unpacked by its kernel from one archive.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from core_builder import ENVIRONMENT, run

DEADLINE = 600  # seconds, for a machine
#: Processors that run at once, as time goes by.
AT_ONCE = ("-accel", "tcg,thread=multi")
#: Processors that take turns, and time that is what they have done: 4 ns an instruction, and
#: nothing for a sleep. However busy the machine below is, no time limit is missed in there.
IN_ITS_OWN_TIME = ("-accel", "tcg,thread=single", "-icount", "shift=2,sleep=off")


# ---- the kernel


def apt(architecture: str, command: str, *arguments: str, folder: Path) -> str:
    """Runs apt for that architecture, its state in folder: the machine's own is left as it is."""
    options = {
        "APT::Architecture": architecture,
        "APT::Architectures": architecture,
        "APT::Sandbox::User": "root",  # whoever that is: the folder is nobody else's
        "Acquire::Languages": "none",
        "Acquire::Retries": "3",
        "Dir::Cache": str(folder),
        "Dir::State": str(folder),
        "Dir::State::status": "/dev/null",  # nothing is installed
    }
    pairs = [f"-o{name}={value}" for name, value in options.items()]
    return run([command, *pairs, *arguments], timeout=300, folder=folder)


def _download(architecture: str, folder: Path) -> Path:
    (folder / "lists/partial").mkdir(parents=True)
    updated = apt(architecture, "apt-get", "update", folder=folder)
    name = f"linux-image-cloud-{architecture}"  # the smallest of Debian's
    depends = apt(architecture, "apt-cache", "depends", name, folder=folder)
    newest = re.search(r"Depends: (linux-image-\S+)", depends)
    assert newest, f"{name} is not to be had:\n{updated}{depends}"
    apt(architecture, "apt-get", "download", newest[1], folder=folder)
    (package,) = folder.glob("*.deb")
    run(["dpkg-deb", "--extract", str(package), str(folder / "package")])
    (kernel,) = folder.glob("package/boot/vmlinuz-*")
    return kernel


def get_kernel(architecture: str) -> Path:
    """Returns the kernel for what Debian calls the architecture."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "iowq-tests"
    kept = cache / f"vmlinuz-{architecture}"
    if not kept.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            _download(architecture, Path(folder)).replace(kept)
    return kept


# ---- the file system


class Archive:
    """A cpio archive of the kind "newc". The kernel takes several, one behind the other."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._folders: set[str] = set()

    def add(self, name: str, data: bytes, mode: int = 0o100644, mtime: int = 0) -> None:
        """Adds a file, and the folders above it."""
        for parent in reversed(Path(name).parents[:-1]):
            if str(parent) not in self._folders:
                self._folders.add(str(parent))
                self._add(str(parent), b"", 0o040755, 0)
        self._add(name, data, mode, mtime)

    def add_file(self, path: Path, name: str | None = None) -> None:
        """Adds a copy of a file, at its own path if no other is given."""
        stat = path.stat()
        name = str(path.absolute()) if name is None else name
        self.add(name.lstrip("/"), path.read_bytes(), 0o100755, int(stat.st_mtime))

    def add_folder(self, folder: Path, name: str = "") -> None:
        """Adds all that is in a folder, below that name; symbolic links as such."""
        for path in sorted(folder.rglob("*")):
            inside = str(Path(name, path.relative_to(folder)))
            if path.is_symlink():
                self.add(inside, str(path.readlink()).encode(), 0o120777)
            elif path.is_file():
                self.add_file(path, inside)

    def _add(self, name: str, data: bytes, mode: int, mtime: int) -> None:
        links = 1  # or the kernel would take files of the same number for one
        fields = [0, mode, 0, 0, links, mtime, len(data), 0, 0, 0, 0, len(name) + 1, 0]
        header = b"070701" + b"".join(b"%08x" % field for field in fields) + name.encode() + b"\0"
        self._parts += [part + bytes(-len(part) % 4) for part in (header, data)]

    def end(self) -> bytes:
        """Returns the archive."""
        self._add("TRAILER!!!", b"", 0, 0)
        return b"".join(self._parts)


def plan_line(program: str, name: str, **more: str) -> str:
    """A line for guest_init.c: one of the core's tests."""
    known = {key: value.format(build="") for key, value in ENVIRONMENT.get(name, {}).items()}
    return " ".join([*(f"{k}={v}" for k, v in {**more, **known}.items()), f"/{program}", name])


# ---- the machine


def boot(
    command: list[str],
    kernel: Path,
    initrd: Path,
    console: str,
    pace: tuple[str, ...] = AT_ONCE,
    deadline: int = DEADLINE,
) -> str:
    """Returns what was on the console when the power went off, or time was up (seconds)."""
    output = initrd.with_suffix(".console")
    command = [
        *command,
        *pace,
        *("-nodefaults", "-no-user-config", "-no-reboot"),
        *("-display", "none", "-serial", f"file:{output}"),
        *("-kernel", str(kernel), "-initrd", str(initrd)),
        *("-append", f"console={console} rdinit=/init quiet panic=-1 numa_balancing=disable"),
    ]
    assert shutil.which(command[0]), f"{command[0]} is not installed; see tests/packages.txt"
    try:
        errors = subprocess.run(
            command, capture_output=True, text=True, timeout=deadline, check=False
        ).stderr
    except subprocess.TimeoutExpired:
        errors = f"still on after {deadline} s"
    # its exit status tells nothing: it is 0 after a kernel's panic, too
    text = output.read_text(errors="replace") if output.exists() else ""
    return text.replace("\r\n", "\n") + errors


def check_end(console: str, line: str) -> str:
    """Fails unless that line of the plan has succeeded; returns what it printed."""
    end = re.search(rf"(?ms)^begin {re.escape(line)}$(.*?)^exit (\d+)$", console)
    assert end, f"never ended; last on the console:\n{console[-3000:]}"
    assert end[2] == "0", f"exit {end[2]}{end[1]}"
    return end[1]
