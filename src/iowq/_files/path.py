"""Paths whose methods are awaited: those of :class:`anyio.Path`, the hot ones as operations."""

from __future__ import annotations

import asyncio
import errno
import functools
import io
import itertools
import os
import pathlib
import stat
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar, cast

from .._native import ffi
from .._types import Operation
from .kinds import parse
from .opening import Opening, open_file
from .perform import CURRENT_FOLDER, NO_FOLLOW, perform, submit_call

if TYPE_CHECKING:
    from typing_extensions import Buffer, Self

    from .opening import Path as AnyPath

P = ParamSpec("P")
T = TypeVar("T")
S = TypeVar("S", bound="Path")

_BATCH = 256  # names that a worker reads at once


def _inside(
    method: Callable[Concatenate[S, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[S, P], Awaitable[T]]:
    """Makes it a method that, without an event loop, is that of :class:`pathlib.Path`."""

    @functools.wraps(method)
    def call(self: S, /, *args: P.args, **kwargs: P.kwargs) -> Awaitable[T]:
        if asyncio._get_running_loop() is not None:
            return method(self, *args, **kwargs)
        return self._call(getattr(pathlib.Path, method.__name__), *args, **kwargs)

    return call


class Path(pathlib.PurePosixPath):
    """A path with the methods of :class:`pathlib.Path`, which are to be awaited.

    Where no event loop runs they return :class:`concurrent.futures.Future`. What iterates needs
    an event loop.
    """

    __slots__ = ()

    def _call(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Awaitable[Any]:
        """Has a worker call it with this path. A path that it returns is of this class."""
        future = submit_call(self._convert, fn, *args, **kwargs)
        if asyncio._get_running_loop() is None:
            return cast("Awaitable[Any]", future)
        return asyncio.wrap_future(future)

    def _convert(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        answer = fn(pathlib.Path(self), *args, **kwargs)
        return type(self)(answer) if isinstance(answer, pathlib.PurePath) else answer

    # ---- what files hold

    def read_bytes(self) -> Awaitable[bytes]:
        """Returns all that the file holds."""
        return perform(Operation.read_file(CURRENT_FOLDER, os.fsencode(self)))

    def write_bytes(self, data: Buffer) -> Awaitable[int]:
        """Makes the file hold this; returns how many bytes that is."""
        memory = ffi.from_buffer(data)
        address = int(ffi.cast("uintptr_t", memory))
        return perform(
            Operation.write_file(
                CURRENT_FOLDER,
                os.fsencode(self),
                address,
                len(memory),
                memory,
                os.O_TRUNC,
                0o666,
            )
        )

    @_inside
    async def read_text(
        self, encoding: str | None = None, errors: str | None = None, newline: str | None = None
    ) -> str:
        """Returns all text that the file holds."""
        data = io.BytesIO(await self.read_bytes())
        return io.TextIOWrapper(data, encoding, errors, newline).read()

    @_inside
    async def write_text(
        self,
        data: str,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> int:
        """Makes the file hold this; returns how many characters that is."""
        if not isinstance(data, str):
            raise TypeError(f"data must be str, not {type(data).__name__}")
        encoded = io.BytesIO()
        wrapper = io.TextIOWrapper(encoded, encoding, errors, newline)
        wrapper.write(data)
        wrapper.flush()
        await self.write_bytes(encoded.getvalue())
        return len(data)

    def open(
        self,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> Opening[Any]:
        """As :func:`iowq.files.open`."""
        kind = parse(mode, buffering, encoding, errors, newline)
        return Opening(lambda: open_file(os.fspath(self), kind, True, None))

    # ---- what files are

    def stat(self, *, follow_symlinks: bool = True) -> Awaitable[os.stat_result]:
        """As :meth:`pathlib.Path.stat`."""
        flags = 0 if follow_symlinks else NO_FOLLOW
        return perform(Operation.stat(CURRENT_FOLDER, os.fsencode(self), flags))

    def lstat(self) -> Awaitable[os.stat_result]:
        """Of a link itself."""
        return self.stat(follow_symlinks=False)

    @_inside
    async def exists(self, *, follow_symlinks: bool = True) -> bool:
        """Whether there is such a file."""
        ask_pathlib = pathlib.Path.exists if follow_symlinks else os.path.lexists
        return await self._ask(ask_pathlib, lambda _mode: True, follow_symlinks)

    @_inside
    async def is_file(self, *, follow_symlinks: bool = True) -> bool:
        """Whether it is a regular one."""
        return await self._ask(pathlib.Path.is_file, stat.S_ISREG, follow_symlinks)

    @_inside
    async def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        """Whether it is a folder."""
        return await self._ask(pathlib.Path.is_dir, stat.S_ISDIR, follow_symlinks)

    @_inside
    async def is_symlink(self) -> bool:
        """Whether it is a link."""
        return await self._ask(pathlib.Path.is_symlink, stat.S_ISLNK, False)

    @_inside
    async def is_fifo(self) -> bool:
        """Whether it is a FIFO."""
        return await self._ask(pathlib.Path.is_fifo, stat.S_ISFIFO)

    @_inside
    async def is_socket(self) -> bool:
        """Whether it is a socket."""
        return await self._ask(pathlib.Path.is_socket, stat.S_ISSOCK)

    @_inside
    async def is_block_device(self) -> bool:
        """Whether it is a block device."""
        return await self._ask(pathlib.Path.is_block_device, stat.S_ISBLK)

    @_inside
    async def is_char_device(self) -> bool:
        """Whether it is a character device."""
        return await self._ask(pathlib.Path.is_char_device, stat.S_ISCHR)

    async def _ask(
        self,
        ask_pathlib: Callable[[pathlib.Path], bool],
        answers: Callable[[int], bool],
        follow_symlinks: bool = True,
    ) -> bool:
        """Whether the file's mode answers this. What an error means is pathlib's to say."""
        try:
            return answers((await self.stat(follow_symlinks=follow_symlinks)).st_mode)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                return False
        except ValueError:
            return False
        return cast("bool", await self._call(ask_pathlib))

    def is_mount(self) -> Awaitable[bool]:
        """Whether another file system is mounted there."""
        return self._call(pathlib.Path.is_mount)

    def samefile(self, other_path: str | os.PathLike[str]) -> Awaitable[bool]:
        """Whether both are the same file."""
        return self._call(pathlib.Path.samefile, os.fspath(other_path))

    def owner(self, **options: bool) -> Awaitable[str]:
        """As :meth:`pathlib.Path.owner`."""
        return self._call(pathlib.Path.owner, **options)

    def group(self, **options: bool) -> Awaitable[str]:
        """As :meth:`pathlib.Path.group`."""
        return self._call(pathlib.Path.group, **options)

    # ---- what is done to them

    @_inside
    async def unlink(self, missing_ok: bool = False) -> None:
        """As :meth:`pathlib.Path.unlink`."""
        try:
            await perform(Operation.unlink(CURRENT_FOLDER, os.fsencode(self), 0))
        except FileNotFoundError:
            if not missing_ok:
                raise

    @_inside
    async def rename(self, target: str | os.PathLike[str]) -> Self:
        """As :meth:`pathlib.Path.rename`; returns the new path."""
        await perform(Operation.rename(os.fsencode(self), os.fsencode(target)))
        return type(self)(target)

    @_inside
    async def replace(self, target: str | os.PathLike[str]) -> Self:
        """As :meth:`pathlib.Path.replace`; returns the new path."""
        return await self.rename(target)

    def mkdir(
        self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False
    ) -> Awaitable[None]:
        """As :meth:`pathlib.Path.mkdir`."""
        return self._call(pathlib.Path.mkdir, mode, parents, exist_ok)

    def rmdir(self) -> Awaitable[None]:
        """As :meth:`pathlib.Path.rmdir`."""
        return self._call(pathlib.Path.rmdir)

    def touch(self, mode: int = 0o666, exist_ok: bool = True) -> Awaitable[None]:
        """As :meth:`pathlib.Path.touch`."""
        return self._call(pathlib.Path.touch, mode, exist_ok)

    def chmod(self, mode: int, *, follow_symlinks: bool = True) -> Awaitable[None]:
        """As :meth:`pathlib.Path.chmod`."""
        return self._call(os.chmod, mode, follow_symlinks=follow_symlinks)

    def lchmod(self, mode: int) -> Awaitable[None]:
        """As :meth:`pathlib.Path.lchmod`."""
        return self._call(pathlib.Path.lchmod, mode)

    def symlink_to(self, target: AnyPath, target_is_directory: bool = False) -> Awaitable[None]:
        """Makes it a link to the target."""
        return self._call(pathlib.Path.symlink_to, os.fsdecode(target), target_is_directory)

    def hardlink_to(self, target: AnyPath) -> Awaitable[None]:
        """Makes it another name of the target."""
        return self._call(pathlib.Path.hardlink_to, os.fsdecode(target))

    # ---- other paths

    def readlink(self) -> Awaitable[Self]:
        """Returns where a link leads to."""
        return self._call(pathlib.Path.readlink)

    def resolve(self, strict: bool = False) -> Awaitable[Self]:
        """As :meth:`pathlib.Path.resolve`."""
        return self._call(pathlib.Path.resolve, strict)

    def absolute(self) -> Awaitable[Self]:
        """As :meth:`pathlib.Path.absolute`."""
        return self._call(pathlib.Path.absolute)

    def expanduser(self) -> Awaitable[Self]:
        """As :meth:`pathlib.Path.expanduser`."""
        return self._call(pathlib.Path.expanduser)

    @classmethod
    def cwd(cls) -> Awaitable[Self]:
        """Returns the working directory."""
        return cls()._call(lambda _path: pathlib.Path.cwd())

    @classmethod
    def home(cls) -> Awaitable[Self]:
        """Returns the user's home."""
        return cls()._call(lambda _path: pathlib.Path.home())

    async def iterdir(self) -> AsyncIterator[Self]:
        """Gives what is in a folder."""
        async for path in self._each(lambda path: path.iterdir()):
            yield path

    async def glob(self, pattern: str, **options: Any) -> AsyncIterator[Self]:
        """As :meth:`pathlib.Path.glob`."""
        async for path in self._each(lambda path: path.glob(pattern, **options)):
            yield path

    async def rglob(self, pattern: str, **options: Any) -> AsyncIterator[Self]:
        """As :meth:`pathlib.Path.rglob`."""
        async for path in self._each(lambda path: path.rglob(pattern, **options)):
            yield path

    async def _each(
        self, begin: Callable[[pathlib.Path], Iterator[pathlib.Path]]
    ) -> AsyncIterator[Self]:
        paths = await self._call(begin)
        while batch := await self._call(lambda _path: list(itertools.islice(paths, _BATCH))):
            for path in batch:
                yield type(self)(path)

    async def walk(
        self,
        top_down: bool = True,
        on_error: Callable[[OSError], object] | None = None,
        follow_symlinks: bool = False,
    ) -> AsyncIterator[tuple[Self, list[str], list[str]]]:
        """As :meth:`pathlib.Path.walk`, which Python has since 3.12."""
        folders = _walk(pathlib.Path(self), top_down, on_error, follow_symlinks)
        while folder := await self._call(lambda _path: next(folders, None)):
            path, dirs, files = folder
            yield type(self)(path), dirs, files

    if sys.version_info < (3, 12):

        def with_segments(self, *segments: str | os.PathLike[str]) -> Self:
            """Makes a path of these."""
            return type(self)(*segments)

    else:

        def is_junction(self) -> Awaitable[bool]:
            """No: Windows has those."""
            return self._call(pathlib.Path.is_junction)

    if sys.version_info >= (3, 13):

        @classmethod
        def from_uri(cls, uri: str) -> Self:
            """As :meth:`pathlib.Path.from_uri`."""
            return cls(pathlib.Path.from_uri(uri))

    if sys.version_info >= (3, 14):

        @property
        def info(self) -> Any:
            """As :attr:`pathlib.Path.info`."""
            return pathlib.Path(self).info

        def copy(self, target: str | os.PathLike[str], **options: bool) -> Awaitable[Self]:
            """As :meth:`pathlib.Path.copy`."""
            return self._call(pathlib.Path.copy, pathlib.Path(target), **options)

        def copy_into(self, target_dir: str | os.PathLike[str], **options: bool) -> Awaitable[Self]:
            """As :meth:`pathlib.Path.copy_into`."""
            return self._call(pathlib.Path.copy_into, pathlib.Path(target_dir), **options)

        def move(self, target: str | os.PathLike[str]) -> Awaitable[Self]:
            """As :meth:`pathlib.Path.move`."""
            return self._call(pathlib.Path.move, pathlib.Path(target))

        def move_into(self, target_dir: str | os.PathLike[str]) -> Awaitable[Self]:
            """As :meth:`pathlib.Path.move_into`."""
            return self._call(pathlib.Path.move_into, pathlib.Path(target_dir))


def _walk(
    top: pathlib.Path,
    top_down: bool,
    on_error: Callable[[OSError], object] | None,
    follow_symlinks: bool,
) -> Iterator[tuple[Any, list[str], list[str]]]:
    if sys.version_info >= (3, 12):
        yield from top.walk(top_down, on_error, follow_symlinks)
        return
    for path, dirs, files in os.walk(top, top_down, on_error, follow_symlinks):
        if not follow_symlinks:  # links to folders are no folders
            links = [name for name in dirs if pathlib.Path(path, name).is_symlink()]
            files += links
            dirs[:] = [name for name in dirs if name not in links]
        yield path, dirs, files
