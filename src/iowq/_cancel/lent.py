"""Threads that run no work, and are lent a worker's part: see ``lending.c``.

What a queue is to a work, a :class:`_Lender` is to them.
"""

from __future__ import annotations

import _thread
import contextlib
import threading
from types import CodeType, FrameType
from typing import Any

from .._native import ffi, lib
from .._work.work import RUNNING, Work
from . import canceller, policy
from .requirements import missing, warn_of


class _Lender:
    """A queue that has guests only, and no works."""

    _interrupt_anywhere = True
    _interruptible: frozenset[str] = frozenset()

    def __init__(self) -> None:
        canceller.install()
        if policy.USE_TRACE:
            _find_tracer()
        self._wq: Any = lib.iowq_create(1, 1, 0, b"iowq-timeout", 0, 0, True, 0)
        if self._wq == ffi.NULL:
            raise OSError(ffi.errno, "there can be no timeouts: no signal is free, or no memory")
        lib.iowq_set_lender(self._wq)


def _find_tracer() -> None:
    """Has safepoint.c look how tracers are set: on a thread that has none."""
    done = threading.Lock()
    done.acquire()

    def find() -> None:
        lib.iowq_find_tracer()
        done.release()

    _thread.start_new_thread(find, ())
    done.acquire()


_lock = threading.Lock()
_lender: _Lender | None = None


class Guest(Work):
    """Stands for a thread that runs no work."""

    __slots__ = ()

    def __init__(self) -> None:
        self._state = RUNNING

    @property
    def _queue(self) -> Any:
        return _lender


def make_guest() -> Guest:
    """Returns what stands for the calling thread, once for each.

    :raises OSError: if no signal is free that could interrupt it.
    """
    global _lender
    with _lock:
        if _lender is None:
            _lender = _Lender()
            warn_of(missing(), stacklevel=3)
    return Guest()


#: What enters a block for its caller.
enter_context: CodeType = contextlib.ExitStack.enter_context.__code__
_CO_GENERATOR, _CO_COROUTINE, _CO_ITERABLE_COROUTINE, _CO_ASYNC_GENERATOR = 0x20, 0x80, 0x100, 0x200
_ASYNC = _CO_COROUTINE | _CO_ITERABLE_COROUTINE | _CO_ASYNC_GENERATOR


def find_block(frame: FrameType) -> FrameType | None:
    """Returns the frame whose block it is that frame, a generator's, is about to enter.

    A ``contextmanager``'s is its caller's.

    :raises RuntimeError: if that may be left before the block is: in an async function.
    """
    current: FrameType | None = frame
    while current is not None:
        code = current.f_code
        if code.co_flags & _ASYNC:
            raise RuntimeError(
                f"a timeout in an async function would end what else its thread does while "
                f"{code.co_name!r} waits: use asyncio.timeout, or call a function that has it"
            )
        if not code.co_flags & _CO_GENERATOR and code.co_filename != contextlib.__file__:
            break
        current = current.f_back
    return current


def after_fork() -> None:
    """In a forked child: the thread that it has is no guest any more."""
    global _lock, _lender
    _lock = threading.Lock()
    _lender = None
