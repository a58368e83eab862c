"""Files on an event loop: what iowq.files costs, what the others do, turn by turn.

Prints a table of medians of ratios, for asyncio and uvloop, on the file system of the temporary
folder and on an overlay before it (which takes root). Needs gcc and liburing's headers.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import os
import platform
import random
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

import file_ways as ways
from run import COLUMNS, Comparison, Core, Finding, Measure, measure

CACHED, UNCACHED, WHOLE, LINES, APPENDS = 4_000, 2_000, 1_000, 100_000, 25_600
FEW_LINES = 10_000  # for who takes 100 us each
MEGABYTES = 256  # that uncached blocks are chosen from

#: The two that try in place, too, or use io_uring; turbofile needs Python 3.12.
LIBRARIES = [name for name in ("turbofile", "ayafileio") if importlib.util.find_spec(name)]


# ---- io_uring, forbidden

_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2
_IO_URING_SETUP = 425
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ERROR, _ALLOW = 0x00050001, 0x7FFF0000  # EPERM, as containers say


def forbid_io_uring() -> None:
    """As most containers do; for this process, and those that it starts."""
    program = [
        (_LOAD, 0, 0, 0),  # the call's number
        (_JUMP_IF_EQUAL, 0, 1, _IO_URING_SETUP),
        (_RETURN, 0, 0, _ERROR),
        (_RETURN, 0, 0, _ALLOW),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))
    program_of = struct.pack("HxxxxxxP", len(program), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(
        _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, program_of, 0, 0
    ):
        raise OSError(ctypes.get_errno(), "no seccomp filter")


# ---- where


class Place:
    """A folder, and what is read there."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder
        self.large, self.text = folder / "large", folder / "text"
        self.small = [folder / f"small-{number}" for number in range(WHOLE)]

    def fill(self) -> None:
        with self.large.open("wb") as file:
            for _ in range(MEGABYTES):
                file.write(random.randbytes(1 << 20))
        with self.text.open("w") as text:
            text.writelines(f"{number}: {'x' * (number % 100)}\n" for number in range(LINES))
        for path in self.small:
            path.write_bytes(random.randbytes(random.randrange(1, 4096)))
        os.sync()

    def read_ahead(self) -> None:
        """What is to be read from the page cache is there."""
        for path in (self.text, *self.small):
            path.read_bytes()
        with self.large.open("rb") as file:
            file.read(CACHED * ways.BLOCK)


@contextmanager
def _mounted(folder: Path, options: str) -> Iterator[None]:
    subprocess.run(["mount", "-t", "overlay", "-o", options, "overlay", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


@contextmanager
def places(names: str) -> Iterator[list[Place]]:
    """The folder for temporary files, and an overlay before it."""
    with tempfile.TemporaryDirectory() as base:
        lower, upper, work, overlay = folders = [Path(base, name) for name in "luwo"]
        for folder in folders:
            folder.mkdir()
        kind = subprocess.check_output(["stat", "-f", "-c", "%T", base], text=True).strip()
        own = Place(kind.replace("ext2/ext3", "ext4"), lower)
        own.fill()
        if "overlay" not in names:
            yield [own]
            return
        with _mounted(overlay, f"lowerdir={lower},upperdir={upper},workdir={work}"):
            yield [place for place in (own, Place("overlay", overlay)) if place.name in names]


# ---- what


def cached_blocks(place: Place, loop: str) -> list[Comparison]:
    def on(way: ways.Way, offsets: list[list[int]]) -> Measure:
        return partial(ways.cached, loop, way, place.large, offsets)

    one, many = ways.in_order(CACHED), ways.at_a_time(CACHED)
    found = []
    for name, offsets, of_library in (("one by one", one, 1), ("64 at a time", many, 1)):
        what = f"cached 4 KiB, {name}"
        ours = on(ways.by_iowq, offsets)
        others: list[tuple[str, ways.Way, str]] = [("aiofiles", ways.by_aiofiles, "at least 20")]
        others += [("anyio", ways.by_anyio, ""), ("run_in_executor", ways.by_executor, "")]
        others += [("caio", ways.by_caio, "")]
        others += [(n, ways.by_library(n), f"at least {of_library}") for n in LIBRARIES]
        found += [Comparison(what, ours, on(w, offsets), n, goal) for n, w, goal in others]
    plain = Comparison(
        "cached 4 KiB, one by one",
        on(ways.by_iowq, one),
        on(ways.by_os, one),
        "os.pread",
        "at most 2",
        is_cost=True,
    )
    handle = "a handle's read of cached 4 KiB, 64 at a time"
    handles = [("aiofiles", ways.by_aiofiles), *((n, ways.by_library(n)) for n in LIBRARIES)]
    ours = on(ways.by_handle, many)
    return [plain, *found, *(Comparison(handle, ours, on(w, many), n, "") for n, w in handles)]


def whole_files(place: Place, loop: str) -> list[Comparison]:
    def on(read: ways.ReadWhole) -> Measure:
        return partial(ways.whole, loop, read, place.small)

    what, ours = "whole small files, 64 at a time", on(ways.whole_by_iowq)
    others: list[tuple[str, ways.ReadWhole, str]] = [
        ("aiofiles", ways.whole_by_aiofiles, "at least 15"),
        ("run_in_executor, one function", ways.whole_by_executor, "at least 5"),
        ("anyio.Path", ways.whole_by_anyio, ""),
    ]
    others += [(n, ways.whole_by_library(n), "at least 1") for n in LIBRARIES]
    found = [Comparison(what, ours, on(read), name, goal) for name, read, goal in others]
    handle = "the same, with open, read, close"
    aiofiles = on(ways.whole_by_aiofiles)
    return [*found, Comparison(handle, on(ways.whole_by_handle), aiofiles, "aiofiles", "")]


def lines_and_appends(place: Place, loop: str) -> list[Comparison]:
    def lines(way: str, count: int = LINES) -> Measure:
        return partial(ways.lines, loop, way, place.text, count)

    def appends(way: str) -> Measure:
        return partial(ways.appends, loop, way, place.folder, APPENDS)

    what = "async for line, 100,000 lines"
    ours = lines("iowq")
    plain = Comparison(what, ours, lines("for"), "a plain for", "at most 3", is_cost=True)
    return [
        Comparison(what, ours, lines("aiofiles", FEW_LINES), "aiofiles", "at least 50"),
        plain,
        Comparison(
            "appends to 64 files in order, fdatasync at the end",
            appends("iowq"),
            appends("aiofiles"),
            "aiofiles, a lock per file",
            "at least 8",
        ),
    ]


def uncached_blocks(place: Place, loop: str, core: Core, has_uring: bool) -> list[Comparison]:
    def on(way: ways.Way) -> Measure:
        return partial(ways.uncached, loop, way, place.large, UNCACHED)

    def delay(way: ways.Way) -> Measure:
        return partial(ways.worst_delay, loop, way, place.large, UNCACHED)

    what, ours = "uncached 4 KiB, 64 at a time", on(ways.by_iowq)
    of_caio = "at least 1.2" if has_uring else "at least 4"
    others: list[tuple[str, ways.Way, str]] = [("caio", ways.by_caio, of_caio)]
    others += [("aiofiles", ways.by_aiofiles, ""), ("run_in_executor", ways.by_executor, "")]
    others += [(n, ways.by_library(n), "") for n in LIBRARIES]
    found = [Comparison(what, ours, on(way), name, goal) for name, way, goal in others]
    if has_uring:
        kernel = core("kernel-reads", UNCACHED, place.large)
        found.append(Comparison(what, ours, kernel, "io_uring in C", "at least 0.5"))
    worst = "the loop's worst delay meanwhile"
    return [
        *found,
        Comparison(
            worst,
            delay(ways.by_iowq),
            delay(ways.by_aiofiles),
            "aiofiles",
            "at most 3,000 us",
            is_cost=True,
        ),
    ]


def _table(title: str, findings: list[tuple[str, Finding]]) -> Table:
    table = Table("", *COLUMNS, title=title)
    for where, finding in findings:
        table.add_row(where, *finding.cells())
    return table


def _markdown(title: str, findings: list[tuple[str, Finding]]) -> str:
    lines = [title, "", f"| | {' | '.join(COLUMNS)} |", "| --- " * (len(COLUMNS) + 1) + "|"]
    lines += [f"| {' | '.join((where, *finding.cells()))} |" for where, finding in findings]
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", default="", help="comparisons whose name contains this")
    parser.add_argument("--loops", default="asyncio,uvloop")
    parser.add_argument("--places", default="ext4,overlay")
    parser.add_argument("--skip", default="\0", help="those whose name contains this")
    parser.add_argument(
        "--processor-time",
        action="store_true",
        help="of all threads, not the clock's: for machines that others use, too",
    )
    parser.add_argument("--forbid-io-uring", action="store_true")
    parser.add_argument("--save", type=Path, help="a file for the table, as Markdown")
    options = parser.parse_args()
    if options.forbid_io_uring:
        forbid_io_uring()
    if options.processor_time:
        ways.clock = time.process_time_ns
    findings: list[tuple[str, Finding]] = []
    with tempfile.TemporaryDirectory() as build, places(options.places) as found:
        core = Core(Path(build))
        for place in found:
            for loop in options.loops.split(","):
                everything = [
                    *cached_blocks(place, loop),
                    *whole_files(place, loop),
                    *lines_and_appends(place, loop),
                    *uncached_blocks(place, loop, core, not options.forbid_io_uring),
                ]
                chosen = [
                    c for c in everything if options.only in c.name and options.skip not in c.name
                ]
                place.read_ahead()
                where = f"{place.name}, {loop}"
                findings += [(where, measure(each, options.rounds)) for each in chosen]
    title = (
        f"CPython {platform.python_version()}, Linux {platform.release().split('-')[0]},"
        f" {os.cpu_count()} CPUs, io_uring {'forbidden' if options.forbid_io_uring else 'allowed'};"
        f" {options.rounds} rounds, interleaved; times are medians per operation"
        f"{' (processor time)' if options.processor_time else ''}, ratios are medians of the"
        " rounds' ratios."
    )
    Console(width=190).print(_table(title, findings))
    if options.save:
        options.save.write_text(_markdown(title, findings))


if __name__ == "__main__":
    main()
