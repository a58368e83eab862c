"""Whose code it is: the user's, this package's, the standard library's, or a third party's.

An exception that nobody there expects is raised in the user's own code, which was written to
be cancelled, or can be changed; others' code is left where it is called, or where it blocks.
"""

from __future__ import annotations

import contextlib
import enum
import functools
import os
import queue
import site
import sysconfig
import threading
import weakref
from collections.abc import Collection
from pathlib import Path
from types import CodeType, FrameType

from .._native import lib


class Owner(enum.Enum):
    """Who wrote some code."""

    USER = enum.auto()
    OURS = enum.auto()
    LIBRARY = enum.auto()
    """The standard library."""
    OTHERS = enum.auto()
    """What pip installs."""


_PACKAGE = str(Path(__file__).parents[1]) + os.sep
_LIBRARY = (
    sysconfig.get_path("stdlib") + os.sep,
    sysconfig.get_path("platstdlib") + os.sep,
    "<frozen ",
)
_INSTALLED = tuple(
    path + os.sep
    for path in (
        sysconfig.get_path("purelib"),
        sysconfig.get_path("platlib"),
        site.getusersitepackages(),
    )
)
#: What such folders are called in the environments of others, and on Debian.
_INSTALLED_NAMES = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")
#: Whose steps belong together: half of them would break other threads.
_WHOLE = (
    threading.__file__,
    queue.__file__,
    contextlib.__file__,
    os.path.join(sysconfig.get_path("stdlib"), "concurrent" + os.sep),  # noqa: PTH118
    os.path.join(sysconfig.get_path("stdlib"), "multiprocessing" + os.sep),  # noqa: PTH118
    weakref.__file__,
    os.path.join(sysconfig.get_path("stdlib"), "_weakrefset.py"),  # noqa: PTH118
    "<frozen importlib",
)


@functools.lru_cache(maxsize=1024)
def _owner_of_file(name: str) -> Owner:
    if name.startswith(_PACKAGE):
        return Owner.OURS
    if name.startswith(_INSTALLED) or any(part in name for part in _INSTALLED_NAMES):
        return Owner.OTHERS
    return Owner.LIBRARY if name.startswith(_LIBRARY) else Owner.USER


def owner_of(frame: FrameType, users: Collection[str] = ()) -> Owner:
    """Returns whose code a frame runs.

    :param users: packages that count as the user's, wherever they are installed.
    """
    frame = _written(frame)
    owner = _owner_of_file(_file_of(frame))
    if owner is Owner.OTHERS and users and _is_in(frame, users):
        return Owner.USER
    return owner


def _file_of(frame: FrameType) -> str:
    """Returns the file of the code, or of the module that it runs in."""
    name = frame.f_code.co_filename
    if name.startswith("<") and not name.startswith("<frozen "):
        return str(frame.f_globals.get("__file__") or name)
    return name


def _written(frame: FrameType) -> FrameType:
    """Returns the frame, or, if exec() has made its code, the one of the code that it serves.

    A dataclass' `__init__` runs in its module; a named tuple's in none, so it is its caller's.
    What somebody types into an interpreter is the user's: it is in `__main__`.
    """
    current = frame
    while (
        _file_of(current).startswith("<")
        and not current.f_code.co_filename.startswith("<frozen ")
        and current.f_globals.get("__name__") != "__main__"
    ):
        caller = caller_of(current)
        if caller is None or is_ours(caller.f_code):
            break
        current = caller
    return current


def _is_in(frame: FrameType, packages: Collection[str]) -> bool:
    module = frame.f_globals.get("__name__")
    return isinstance(module, str) and any(
        module == name or module.startswith(name + ".") for name in packages
    )


def caller_of(frame: FrameType) -> FrameType | None:
    """Returns the frame that has called this one, if both belong to the work.

    What belongs to no work, but to a time limit's block, ends with the frame that has the block.
    """
    return None if id(frame) == lib.iowq_get_base() else frame.f_back


def is_ours(code: CodeType) -> bool:
    """Whether it is this package's own code, which nothing must interrupt."""
    return code.co_filename.startswith(_PACKAGE)


def is_whole(code: CodeType) -> bool:
    """Whether its steps must never be torn apart."""
    return code.co_filename.startswith(_WHOLE)
