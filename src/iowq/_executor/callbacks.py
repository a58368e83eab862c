"""The package's functions that the binding calls for works and threads."""

from __future__ import annotations

from .._native import lib
from .._work.future import publish
from .._work.work import CANCELLED, FINISHED, deferred, drop, run
from . import threads

if not lib.iowq_set_objects(
    id(run),
    id(drop),
    id(publish),
    id(FINISHED),
    id(CANCELLED),
    id(deferred),
    id(threads.started),
    id(threads.ended),
    id(threads.initialize),
    id(threads.admit),
):
    raise ImportError("iowq works in the main interpreter only, not in a subinterpreter")
