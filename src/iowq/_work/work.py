"""One work: what :meth:`WorkQueue.enqueue` returns, and how a worker runs it."""

from __future__ import annotations

import enum
import threading
from collections.abc import Callable
from types import CodeType
from typing import TYPE_CHECKING, Any, NoReturn

from .._native import lib
from .._types import WorkBase

if TYPE_CHECKING:
    from .._executor.queue import WorkQueue


class Cancel(enum.IntEnum):
    """What a cancel found (``enum io_wq_cancel``)."""

    OK = lib.IO_WQ_CANCEL_OK
    """The work was pending; it will not run."""
    RUNNING = lib.IO_WQ_CANCEL_RUNNING
    """The work runs, and is being ended."""
    NOTFOUND = lib.IO_WQ_CANCEL_NOTFOUND
    """The work has finished, or isn't this queue's."""


class Cancelled(BaseException):
    """Ends a work that is cancelled while it runs. No ``except Exception`` eats it."""


class Skipped(Cancelled):
    """Ends a work that finds, when it is its turn, that it is cancelled."""


#: Those of :class:`concurrent.futures.Future`, whose functions look at them.
PENDING, RUNNING, FINISHED, CANCELLED = "PENDING", "RUNNING", "FINISHED", "CANCELLED_AND_NOTIFIED"
ENDED = (FINISHED, CANCELLED)
_WORDS = {PENDING: "pending", RUNNING: "running", FINISHED: "done", CANCELLED: "cancelled"}


def safe_repr(thing: object) -> str:
    """Returns repr(thing); or, if that raises, what names its type: for diagnostics."""
    try:
        return repr(thing)
    except Exception:
        return object.__repr__(thing)


class Work(WorkBase):
    """A callable on its way through a queue. It keeps no result.

    ``pending()``, ``running()``, ``done()`` and ``cancelled()`` answer as those
    of :class:`concurrent.futures.Future` do.
    """

    __slots__ = ()

    @property
    def _queue(self) -> WorkQueue | None:
        """Its queue, until it has ended: what is kept of a work keeps no threads alive."""
        executor = self._executor  # another thread may end the work between two reads
        return None if executor is None else executor._queue

    def pending(self) -> bool:
        """Whether the work has not been started yet."""
        return self._state == PENDING

    def running(self) -> bool:
        """Whether a worker runs the callable now."""
        return self._state == RUNNING

    def done(self) -> bool:
        """Whether the work has finished, or was cancelled."""
        return self._state in ENDED

    def cancelled(self) -> bool:
        """Whether cancel kept the work from running, or ended it."""
        return self._state == CANCELLED

    def _stack(self) -> list[tuple[CodeType, int]]:
        """What its thread is in, with the lines, from the innermost on; empty if it doesn't run."""
        stack: list[tuple[CodeType, int]] = []
        lib.iowq_get_stack(id(self), id(stack))
        return stack

    def __repr__(self) -> str:
        state, fn = _WORDS[self._state], self._fn
        what = f" of {safe_repr(fn)}" if fn is not None else ""
        return f"<{type(self).__name__} {state}{what} at {id(self):#x}>"

    def __reduce__(self) -> NoReturn:
        """Works, and futures, can't be copied."""
        raise TypeError(f"cannot copy or pickle {self!r}")

    def _drop(self) -> str:
        """Returns the state that the work ends in if it will never run."""
        return CANCELLED


def take_error(work: Work, error: BaseException) -> bool:
    """Whether what a work has raised has found somebody to care for it."""
    queue = work._queue
    if queue is None or queue._on_error is None:
        return False
    queue._on_error(work, error)
    return True


def drop(work: Work) -> str:
    """Ends a work that was cancelled before it started; called again if interrupted."""
    state = work._drop()
    work._let_go()
    return state


def call_object(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Any = None, /) -> Any:
    """Calls what is no Python function: see ``call`` in works.c."""
    try:
        return fn(*args) if kwargs is None else fn(*args, **kwargs)
    finally:
        del fn, args, kwargs  # an exception keeps this frame


#: What signals' handlers raised in drop or publish, on the main thread.
deferred: list[BaseException] = []


def is_main_thread() -> bool:
    """Whether the caller is the thread on which signals' handlers run."""
    return threading.current_thread() is threading.main_thread()


def raise_deferred() -> None:
    """Raises what a signal's handler raised while works were dropped: on the main thread."""
    if deferred and is_main_thread():
        first = deferred[0]
        deferred.clear()
        raise first
