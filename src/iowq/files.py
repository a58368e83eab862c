"""Files without waiting: tried in place, and done by a worker only if that would wait.

What lies in memory is read on the spot, without any thread: ``await iowq.files.pread(fd, 4096, 0)``
costs little more than ``os.pread``. What doesn't is read by threads that need no GIL.

Where an event loop runs on the calling thread (asyncio's, uvloop's, trio's), all functions return
awaitables, and cancelling a task that awaits one ends the operation if it can be ended (a pipe, a
terminal); a disk's can't, and is abandoned. Elsewhere they return
:class:`concurrent.futures.Future`. The operation begins with the call, in either case.

They raise what ``os`` raises: :class:`OSError`, when they are awaited.
"""

from __future__ import annotations

import os
from asyncio import _get_running_loop
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, overload

from ._files.binary import BinaryFile
from ._files.kinds import parse
from ._files.opening import Opener, Opening, open_file
from ._files.path import Path
from ._files.perform import (
    CURRENT_FOLDER,
    EMPTY_PATH,
    NO_FOLLOW,
    perform,
    perform_outside,
    submit,
)
from ._files.text import TextFile
from ._native import ffi
from ._types import Operation

if TYPE_CHECKING:
    from _cffi_backend import _CDataBase
    from _typeshed import OpenBinaryMode, OpenTextMode
    from typing_extensions import Buffer

StrPath = str | bytes | os.PathLike[str] | os.PathLike[bytes]

__all__ = [
    "BinaryFile",
    "Path",
    "TextFile",
    "copy_file_range",
    "fdatasync",
    "fsync",
    "ftruncate",
    "open",
    "pread",
    "preadinto",
    "pwrite",
    "read_bytes",
    "rename",
    "sendfile",
    "stat",
    "unlink",
    "write_bytes",
]

_POSITION = -1  # the file's own


@overload
def open(  # noqa: A001
    file: StrPath | int,
    mode: OpenTextMode = "r",
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    closefd: bool = True,
    opener: Opener | None = None,
) -> Opening[TextFile]: ...
@overload
def open(  # noqa: A001
    file: StrPath | int,
    mode: OpenBinaryMode,
    buffering: int = -1,
    encoding: None = None,
    errors: None = None,
    newline: None = None,
    closefd: bool = True,
    opener: Opener | None = None,
) -> Opening[BinaryFile]: ...
@overload
def open(  # noqa: A001
    file: StrPath | int,
    mode: str,
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    closefd: bool = True,
    opener: Opener | None = None,
) -> Opening[Any]: ...


def open(  # noqa: A001
    file: StrPath | int,
    mode: str = "r",
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    closefd: bool = True,
    opener: Opener | None = None,
) -> Opening[Any]:
    """Opens a file for an event loop: ``async with iowq.files.open(path) as file``.

    The arguments are those of :func:`open`. What it returns is awaited, or entered; until then the
    file isn't opened. The handle has the methods of a file of aiofiles.

    :raises ValueError: the arguments are bad, as :func:`open` says.
    :raises OSError: when it is awaited.
    """
    kind = parse(mode, buffering, encoding, errors, newline)
    if not isinstance(file, int):
        file = os.fspath(file)
        if not closefd:
            raise ValueError("Cannot use closefd=False with file name")
    return Opening(lambda: open_file(file, kind, closefd, opener))


def pread(fd: int, size: int, offset: int) -> Awaitable[bytes]:
    """Reads up to ``size`` bytes at this offset; fewer only where the file ends.

    :param offset: -1: at the file's position, which moves. So it must be for a pipe, of which
        as much is read as is there.
    """
    operation = Operation.pread(fd, size, offset)
    loop = _get_running_loop()  # what perform() does, without another call
    if loop is None:
        return perform_outside(operation)
    return operation if operation.attempt() else submit(loop, operation)


def preadinto(fd: int, buffer: Buffer, offset: int) -> Awaitable[int]:
    """As :func:`pread`, into memory of the caller's; returns how many bytes.

    :param buffer: is not to be touched until then.
    """
    memory = ffi.from_buffer(buffer, require_writable=True)
    return perform(_transfer(False, fd, memory, offset))


def pwrite(fd: int, data: Buffer, offset: int) -> Awaitable[int]:
    """Writes all of it at this offset; returns how many bytes.

    After an error, on a full disk say, that is how many were written before, if any were.
    """
    return perform(_transfer(True, fd, ffi.from_buffer(data), offset))


def fsync(fd: int) -> Awaitable[int]:
    """As :func:`os.fsync`."""
    return perform(Operation.sync(fd, False))


def fdatasync(fd: int) -> Awaitable[int]:
    """As :func:`os.fdatasync`."""
    return perform(Operation.sync(fd, True))


def ftruncate(fd: int, length: int) -> Awaitable[int]:
    """As :func:`os.ftruncate`."""
    return perform(Operation.truncate(fd, length))


def stat(path: StrPath | int, *, follow_symlinks: bool = True) -> Awaitable[os.stat_result]:
    """As :func:`os.stat`."""
    if isinstance(path, int):
        return perform(Operation.stat(path, b"", EMPTY_PATH))
    flags = 0 if follow_symlinks else NO_FOLLOW
    return perform(Operation.stat(CURRENT_FOLDER, os.fsencode(path), flags))


def rename(old: StrPath, new: StrPath) -> Awaitable[int]:
    """As :func:`os.rename`."""
    return perform(Operation.rename(os.fsencode(old), os.fsencode(new)))


def unlink(path: StrPath) -> Awaitable[int]:
    """As :func:`os.unlink`."""
    return perform(Operation.unlink(CURRENT_FOLDER, os.fsencode(path), 0))


def copy_file_range(
    source: int, target: int, count: int, *, source_offset: int = -1, target_offset: int = -1
) -> Awaitable[int]:
    """As :func:`os.copy_file_range`, until all is copied or the source ends.

    :param source_offset: and ``target_offset``: -1: the file's position, which moves.
    """
    source_offset, target_offset = _checked(source_offset), _checked(target_offset)
    return perform(
        Operation.copy(source, source_offset, target, target_offset, _count("count", count))
    )


def sendfile(target: int, source: int, offset: int, count: int) -> Awaitable[int]:
    """As :func:`os.sendfile`, until all is sent or the source ends."""
    return perform(Operation.send_file(target, source, _checked(offset), _count("count", count)))


def read_bytes(path: StrPath) -> Awaitable[bytes]:
    """Returns all that the file holds: opened, read and closed as one operation."""
    return perform(Operation.read_file(CURRENT_FOLDER, os.fsencode(path)))


def write_bytes(
    path: StrPath, data: Buffer, *, flags: int = os.O_TRUNC, mode: int = 0o666
) -> Awaitable[int]:
    """Makes the file hold this: opened, written and closed as one operation.

    :param flags: of :func:`os.open`: ``os.O_APPEND``, or ``os.O_EXCL``, instead of ``os.O_TRUNC``.
    """
    memory = ffi.from_buffer(data)
    address, size = _place_of(memory)
    return perform(
        Operation.write_file(CURRENT_FOLDER, os.fsencode(path), address, size, memory, flags, mode)
    )


def _transfer(writes: bool, fd: int, memory: _CDataBase, offset: int) -> Operation[int]:
    address, size = _place_of(memory)
    return Operation.transfer(writes, fd, address, size, memory, _checked(offset))


def _place_of(memory: _CDataBase) -> tuple[int, int]:
    return int(ffi.cast("uintptr_t", memory)), len(memory)


def _count(name: str, value: int) -> int:
    if value < 0:
        raise ValueError(f"{name} must be 0 or more, not {value}")
    return value


def _checked(offset: int) -> int:
    if offset < _POSITION:
        raise ValueError(f"offset must be -1 or more, not {offset}")
    return offset
