"""Hooks on functions of the interpreter, for works: see ``hooks.c``."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import _thread
import sys
import threading
from queue import Empty, SimpleQueue
from typing import Any

from .._native import lib
from .._once import once
from . import blocking_calls, connections, waits
from .thread_state import Baseline


@once
def install() -> bool:
    """Installs the hooks, once for the process, before the first work.

    Returns whether the ssl module's calls are among them, or there is no such module.
    """
    lib.iowq_set_baseline(id(Baseline), id(sys.gettrace), id(sys.getprofile))
    for number, function in enumerate(
        (sys.set_asyncgen_hooks, sys.set_coroutine_origin_tracking_depth, _signal.pthread_sigmask)
    ):
        lib.iowq_hook_change(number, id(function), function.__name__.encode())
    _hook_waits()
    connections.install()
    blocking_calls.hook()
    return _hook_tls()


def _hook_waits() -> None:
    lock, rlock = waits.LOCKS
    handle: Any = getattr(_thread, "_ThreadHandle", None)  # from 3.13 on
    join: Any = getattr(threading.Thread, "_wait_for_tstate_lock", None)  # up to 3.12
    lib.iowq_hook_waits(
        id(lock),
        id(rlock),
        id(SimpleQueue),
        0 if handle is None else id(handle),
        id(Empty),
        0 if join is None else id(join.__code__),
        id(waits.may_leave),
    )


def _hook_tls() -> bool:
    try:
        import _ssl  # costs 3 ms; an interpreter may have none
    except ImportError:
        return True
    if lib.iowq_hook_tls(id(_ssl._SSLSocket)):  # type: ignore[attr-defined]
        return True
    for library in (b"_ssl", b"libssl", b"libcrypto"):  # which hide errors, and aren't watched
        lib.io_wq_judge_caller(library, lib.IO_WQ_CALLER_UNKNOWN)
    return False
