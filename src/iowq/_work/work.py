"""One work: what :meth:`WorkQueue.enqueue` returns, and how a worker runs it."""

from __future__ import annotations

import enum
import threading
from collections.abc import Callable
from contextvars import Context
from types import FrameType
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from .._arguments import check_callable
from .._native import ffi, lib

if TYPE_CHECKING:
    from .._executor.executor import QueueExecutor
    from .._executor.keys import KeyUse
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

_FAILED = lib.IO_WQ_FAILED
_new_memory = ffi.new
_memory_type = ffi.typeof("struct iowq_work *")


def safe_repr(thing: object) -> str:
    """Returns repr(thing); or, if that raises, what names its type: for diagnostics."""
    try:
        return repr(thing)
    except Exception:
        return object.__repr__(thing)


class Work:
    """A callable on its way through a queue. It keeps no result.

    ``pending()``, ``running()``, ``done()`` and ``cancelled()`` answer as those
    of :class:`concurrent.futures.Future` do.
    """

    __slots__ = (
        "__weakref__",
        "_args",
        "_context",
        "_executor",
        "_fn",
        "_key_use",
        "_kwargs",
        "_memory",
        "_shared",
        "_state",
        "_wq",
    )

    def __init__(
        self,
        executor: QueueExecutor,
        fn: Callable[..., object],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        context: Context,
    ) -> None:
        if not callable(fn):
            check_callable("fn", fn)
        self._executor: QueueExecutor | None = executor
        self._wq = executor._wq
        self._fn: Callable[..., object] | None = fn
        self._args = args
        self._kwargs = kwargs or None
        self._context = context or None
        self._key_use: KeyUse | None = None
        self._state = PENDING
        self._shared: Any = None  # whom a Future tells of its end; a plain Work tells nobody
        self._memory = _new_memory(_memory_type)  # struct iowq_work

    @property
    def _queue(self) -> WorkQueue | None:
        """Its queue, until it has ended: what is kept of a work keeps no threads alive."""
        executor = self._executor  # another thread may end the work between two reads
        return None if executor is None else executor._queue

    def pending(self) -> bool:
        """Whether the work has not been started yet."""
        return self._settled() == PENDING

    def running(self) -> bool:
        """Whether a worker runs the callable now."""
        return self._settled() == RUNNING

    def done(self) -> bool:
        """Whether the work has finished, or was cancelled."""
        return self._settled() in ENDED

    def cancelled(self) -> bool:
        """Whether cancel kept the work from running, or ended it."""
        return self._settled() == CANCELLED

    def _settled(self) -> str:
        """Its state. In a forked child, what stayed in the parent is cancelled."""
        wq, executor = self._wq, self._executor  # another thread may end the work meanwhile
        if wq is not None and executor is not None and wq is not executor._wq:
            self._state = CANCELLED
        return self._state

    def _is_taken(self) -> bool:
        """Whether the core has, or had, the work."""
        return bool(self._memory.taken)  # type: ignore[attr-defined]

    def _cancel_requested(self) -> bool:
        return bool(lib.iowq_cancelled(self._memory))

    def _frame(self) -> FrameType | None:
        """The innermost frame of the thread that runs it, if one does."""
        frames: list[FrameType] = []
        lib.iowq_get_frame(self._memory, id(frames))
        return frames[0] if frames else None

    def _is_cancelled_by(self, error: BaseException) -> bool:
        kind = type(error)  # isinstance() would ask the error what it is
        return issubclass(kind, Skipped) or (
            self._cancel_requested()
            and (bool(lib.io_wq_worker_interrupted()) or issubclass(kind, Cancelled))
        )

    def __repr__(self) -> str:
        state, fn = _WORDS[self._settled()], self._fn
        what = f" of {safe_repr(fn)}" if fn is not None else ""
        return f"<{type(self).__name__} {state}{what} at {id(self):#x}>"

    def __reduce__(self) -> NoReturn:
        """Works, and futures, can't be copied."""
        raise TypeError(f"cannot copy or pickle {self!r}")

    def _let_go(self) -> None:
        """Lets go of all that the callable needed. May be repeated if it was interrupted."""
        self._fn = self._context = self._kwargs = None
        self._args = ()
        if self._key_use is not None and self._executor is not None:
            # the use lives on: the core has its address still
            self._executor._queue._keys.release(self._key_use, self._memory)
        self._executor = self._wq = None

    #: Whether it has a _result and an _exception: see Future.
    _keeps_outcome: ClassVar[bool] = False

    def _take_error(self, error: BaseException) -> bool:
        """Whether what the callable raised has found somebody to care for it."""
        queue = self._queue
        if queue is None or queue._on_error is None:
            return False
        try:
            queue._on_error(self, error)
        except BaseException as fault:
            lib.iowq_report(id(fault), id(self))
            return False
        return True

    def _drop(self) -> str:
        """Returns the state that the work ends in if it will never run."""
        return CANCELLED


def run(work: Work) -> str:
    """Runs a work on the calling worker, and returns the state that it ends in.

    A work that ends with an exception after cancel has ended one of its system
    calls is cancelled: the exception is cancel's, whatever a library made of it.
    So is one that ends with Cancelled, if cancel was asked for.
    """
    work._state = RUNNING
    try:
        result = (work._context or Context()).run(work._fn, *work._args, **(work._kwargs or {}))  # type: ignore[arg-type]
        if work._keeps_outcome:
            work._result = result  # type: ignore[attr-defined]
            work._exception = None  # type: ignore[attr-defined]
        return FINISHED
    except BaseException as error:
        if work._is_cancelled_by(error):
            return CANCELLED
        # A cancel that comes now is too late: it must not disturb the report.
        lib.io_wq_worker_shield()
        lib.io_wq_worker_set_outcome(_FAILED)
        if not work._take_error(error):
            raise  # the binding reports it
        return FINISHED
    finally:
        try:
            work._let_go()
        except BaseException as late:  # asynchronous, and too late for the work
            work._let_go()
            lib.iowq_report(id(late), id(work))
        del work  # which may keep the exception, whose traceback keeps this frame


def drop(work: Work) -> str:
    """Ends a work that was cancelled before it started; called again if interrupted."""
    state = work._drop()
    work._let_go()
    return state


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
