"""What the binding knows of the package: see package.h."""

from __future__ import annotations

import sys

from .._arguments import check_callable, check_seconds
from .._cancel.lent import enter_context, find_block, make_guest
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
    "check_seconds",
    "deferred",
    "drop",
    "ended",
    "enter_context",
    "find_block",
    "initialize",
    "make_guest",
    "publish",
    "started",
    "take_error",
]

if lib.iowq_set_objects(id(sys.modules[__name__])):
    raise ImportError("the binding doesn't know this package")
