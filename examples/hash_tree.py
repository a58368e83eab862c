"""Copies a tree of files and hashes what is in them, in three ways, and says how long each takes.

``python examples/hash_tree.py`` makes a tree of 10,000 small files for that; ``--tree FOLDER``
takes one that is there. The three: ``iowq.files``, aiofiles, and plain threads.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import os
import random
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import aiofiles
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from iowq import files

AT_A_TIME = 64

#: Copies a file, and returns its digest.
Copy = Callable[[Path, Path], Awaitable[bytes]]
#: Tells the progress bar of one more file.
Advance = Callable[[], None]


async def copy_by_iowq(source: Path, target: Path) -> bytes:
    """In place if the file is in memory, else by a worker."""
    data = await files.read_bytes(source)
    await files.write_bytes(target, data)
    return hashlib.sha256(data).digest()


async def copy_by_aiofiles(source: Path, target: Path) -> bytes:
    """A thread for each step."""
    async with aiofiles.open(source, "rb") as file:
        data = await file.read()
    async with aiofiles.open(target, "wb") as file:
        await file.write(data)
    return hashlib.sha256(data).digest()


def copy_by_thread(source: Path, target: Path) -> bytes:
    """As programs without an event loop do."""
    data = source.read_bytes()
    target.write_bytes(data)
    return hashlib.sha256(data).digest()


class Tree:
    """Files, and where their copies go."""

    def __init__(self, source: Path, target: Path) -> None:
        self.paths = [path for path in _walk(source) if path.is_file()]
        self._source, self._target = source, target

    def pairs(self, way: str) -> list[tuple[Path, Path]]:
        """Each file and its copy; the folders for those are there."""
        target = self._target / way
        pairs = [(path, target / path.relative_to(self._source)) for path in self.paths]
        for folder in {copy.parent for _path, copy in pairs}:
            folder.mkdir(parents=True, exist_ok=True)
        return pairs


def _walk(folder: Path) -> Iterator[Path]:
    for parent, _folders, names in os.walk(folder):
        yield from (Path(parent, name) for name in sorted(names))


def on_a_loop(copy: Copy, pairs: list[tuple[Path, Path]], advance: Advance) -> bytes:
    """Copies all of them, 64 at a time. Returns the digest of their digests."""
    digests = [b""] * len(pairs)
    numbers = iter(range(len(pairs)))

    async def some() -> None:
        for number in numbers:
            digests[number] = await copy(*pairs[number])
            advance()

    async def all_of_them() -> None:
        await asyncio.gather(*(some() for _ in range(AT_A_TIME)))

    asyncio.run(all_of_them())
    return hashlib.sha256(b"".join(digests)).digest()


def on_threads(pairs: list[tuple[Path, Path]], advance: Advance) -> bytes:
    """The same with a thread for each that is under way."""
    digest = hashlib.sha256()
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        for each in pool.map(copy_by_thread, *zip(*pairs, strict=True)):
            digest.update(each)
            advance()
    return digest.digest()


WAYS: dict[str, Callable[[list[tuple[Path, Path]], Advance], bytes]] = {
    "iowq.files": lambda pairs, advance: on_a_loop(copy_by_iowq, pairs, advance),
    "aiofiles": lambda pairs, advance: on_a_loop(copy_by_aiofiles, pairs, advance),
    "threads": on_threads,
}


def make_tree(folder: Path, count: int) -> None:
    """Files of up to 16 KiB, a hundred in each folder."""
    for number in range(count):
        path = folder / f"{number // 100:03}" / f"{number % 100:02}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(random.randbytes(random.randrange(16 << 10)))


def copy_in_each_way(tree: Tree, console: Console) -> dict[str, tuple[float, bytes]]:
    """Returns seconds and digest of each way."""
    on_threads(tree.pairs("first"), lambda: None)  # so that none of them pays for being that
    found = {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        for name, way in WAYS.items():
            pairs = tree.pairs(name)
            os.sync()
            task = progress.add_task(f"{name:10}", total=len(pairs))
            begun = time.perf_counter()
            digest = way(pairs, lambda task=task: progress.advance(task))  # type: ignore[misc]
            found[name] = time.perf_counter() - begun, digest
    return found


def main() -> None:
    """Copies the tree, prints the times, and checks that the digests are the same."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tree", type=Path, help="a folder that is there")
    parser.add_argument("--files", type=int, default=10_000, help="of the tree that is made")
    options = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory() as made, tempfile.TemporaryDirectory() as target:
        source = options.tree or Path(made)
        if not options.tree:
            make_tree(source, options.files)
        tree = Tree(source, Path(target))
        found = copy_in_each_way(tree, console)
    for name, (seconds, _digest) in found.items():
        console.print(f"{name:10} {len(tree.paths)} files in {seconds:.2f} s", highlight=False)
    assert len({digest for _seconds, digest in found.values()}) == 1, "the copies differ"


if __name__ == "__main__":
    main()
