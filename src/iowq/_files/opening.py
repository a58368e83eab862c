"""What ``iowq.files.open()`` returns: it is awaited, or entered."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from .._types import Operation
from .binary import BinaryFile
from .perform import CURRENT_FOLDER, EMPTY_PATH, perform, submit_call
from .text import TextFile

if TYPE_CHECKING:
    from .kinds import Kind

H = TypeVar("H", BinaryFile, TextFile)

Path = str | bytes | os.PathLike[str] | os.PathLike[bytes]
Opener = Callable[[str, int], int]

_MODE = 0o666


class Opening(AbstractAsyncContextManager[H], Generic[H]):
    """A file that is to be opened: ``await`` it, or use it with ``async with``."""

    def __init__(self, start: Callable[[], Coroutine[Any, Any, H]]) -> None:
        self._start: Callable[[], Coroutine[Any, Any, H]] = start
        self._handle: H | None = None

    def __await__(self) -> Generator[Any, None, H]:
        """Opens the file, the first time."""
        if self._handle is None:
            self._handle = yield from self._start().__await__()
        return self._handle

    async def __aenter__(self) -> H:
        """Opens the file."""
        return await self

    async def __aexit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        """Closes it."""
        handle, self._handle = self._handle, None
        if handle is not None:
            await handle.close()


async def open_file(
    file: Path | int, kind: Kind, closes: bool, opener: Opener | None
) -> BinaryFile | TextFile:
    """Opens it, and returns a handle of this kind."""
    descriptor = file if isinstance(file, int) else await _open(file, kind.flags, opener)
    try:
        status = await perform(Operation.stat(descriptor, b"", EMPTY_PATH))
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), file)
        make: Callable[..., BinaryFile | TextFile] = TextFile if kind.text else BinaryFile
        handle = make(descriptor, kind, file, status, closes)
    except BaseException:
        if closes:
            os.close(descriptor)
        raise
    handle.adopt(descriptor)
    return handle


async def _open(path: Path, flags: int, opener: Opener | None) -> int:
    """Returns a descriptor, which is the caller's; a cancelled one is closed."""
    if opener:
        return await _open_by(opener, path, flags)
    operation = Operation.open(CURRENT_FOLDER, os.fsencode(path), flags, _MODE)
    await perform(operation)
    return operation.take()


def _close_result(opening: Future[int]) -> None:
    if not opening.exception():
        os.close(opening.result())


async def _open_by(opener: Opener, path: Path, flags: int) -> int:
    opening = submit_call(opener, cast("str", path), flags)
    try:
        descriptor = await asyncio.shield(asyncio.wrap_future(opening))
    except asyncio.CancelledError:
        opening.add_done_callback(_close_result)
        raise
    if descriptor < 0:
        raise ValueError(f"opener returned {descriptor}")
    os.set_inheritable(descriptor, False)
    return descriptor
