"""What describes works to those who watch this process: told to the binding once.

The binding reads callables and keys without the interpreter (``binding/describe.c``), and learns
from samples where their names are.
"""

from __future__ import annotations

import functools
import time
from pathlib import Path, PurePosixPath
from types import MethodType

from .._native import lib


class _Sample:
    def method(self) -> None:
        pass


def _learn(sample: object, part: object, kind: int) -> None:
    lib.iowq_learn_part(id(sample), id(part), kind)


def learn_target(sample: object, target: object) -> None:
    """Has callables of the sample's type be called as what they have where it has target."""
    _learn(sample, target, lib.IOWQ_PART_TARGET)


def let_watch() -> None:
    """Lets other processes of this user see what the queues do, as ``python -m iowq top`` does."""
    function = _Sample.method
    method = MethodType(function, _Sample())
    _learn(function, function.__qualname__, lib.IOWQ_PART_NAME)
    _learn(function, function.__module__, lib.IOWQ_PART_MODULE)
    _learn(time.sleep, time.sleep.__module__, lib.IOWQ_PART_MODULE)
    learn_target(method, method.__func__)
    partial = functools.partial(function)
    learn_target(partial, partial.func)
    for kind in (PurePosixPath, type(Path())):
        path = kind("of/iowq")
        _learn(path, str(path), lib.IOWQ_PART_TEXT)
    lib.iowq_let_watch()
