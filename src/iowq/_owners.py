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
from types import CodeType, FrameType


class Owner(enum.Enum):
    """Who wrote some code."""

    USER = enum.auto()
    OURS = enum.auto()
    LIBRARY = enum.auto()
    """The standard library."""
    OTHERS = enum.auto()
    """What pip installs."""


_PACKAGE = str(os.path.dirname(__file__)) + os.sep  # noqa: PTH120
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
    name = frame.f_code.co_filename
    if name.startswith("<") and not name.startswith("<frozen "):
        # made by exec(): it is the module's that it runs in, a dataclass' `__init__`, say
        name = str(frame.f_globals.get("__file__") or name)
    owner = _owner_of_file(name)
    if owner is Owner.OTHERS and users and _is_in(frame, users):
        return Owner.USER
    return owner


def _is_in(frame: FrameType, packages: Collection[str]) -> bool:
    module = frame.f_globals.get("__name__")
    return isinstance(module, str) and any(
        module == name or module.startswith(name + ".") for name in packages
    )


def is_ours(code: CodeType) -> bool:
    """Whether it is this package's own code, which nothing must interrupt."""
    return code.co_filename.startswith(_PACKAGE)


def is_whole(code: CodeType) -> bool:
    """Whether its steps must never be torn apart."""
    return code.co_filename.startswith(_WHOLE)
