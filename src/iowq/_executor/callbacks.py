"""What the binding knows of the package: see package.h."""

from __future__ import annotations

import sys

from .._arguments import check_callable
from .._native import lib
from .._work.future import Future, publish
from .._work.work import Cancelled, Skipped, Work, call_object, deferred, drop, take_error
from .threads import admit, ended, initialize, started

__all__ = [
    "Cancelled",
    "Future",
    "Skipped",
    "Work",
    "admit",
    "call_object",
    "check_callable",
    "deferred",
    "drop",
    "ended",
    "initialize",
    "publish",
    "started",
    "take_error",
]

if lib.iowq_set_objects(id(sys.modules[__name__])):
    raise ImportError("the binding doesn't know this package")
