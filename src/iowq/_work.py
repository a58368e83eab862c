"""One work: what :meth:`WorkQueue.enqueue` returns, and how a worker runs it."""

from __future__ import annotations

import enum
from collections.abc import Callable
from contextvars import Context
from typing import TYPE_CHECKING, Any, ClassVar

from ._native import ffi, lib

if TYPE_CHECKING:
    from ._entrance import Entrance
    from ._keys import KeyUse
    from ._queue import WorkQueue


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
_WORDS = {PENDING: "pending", RUNNING: "running", FINISHED: "done", CANCELLED: "cancelled"}

_FAILED = lib.IO_WQ_FAILED
_new_memory = ffi.new_allocator(should_clear_after_alloc=False)
_memory_type = ffi.typeof("struct iowq_work *")


class Work:
    """A callable on its way through a queue. It keeps no result.

    ``pending()``, ``running()``, ``done()`` and ``cancelled()`` answer as those
    of :class:`concurrent.futures.Future` do.
    """

    __slots__ = (
        "__weakref__",
        "_args",
        "_context",
        "_entrance",
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
        entrance: Entrance,
        fn: Callable[..., object],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        context: Context,
    ) -> None:
        self._entrance: Entrance | None = entrance
        self._wq = entrance._wq
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
        entrance = self._entrance  # another thread may end the work between two looks
        return None if entrance is None else entrance._queue

    def pending(self) -> bool:
        """Whether the work has not been started yet."""
        return self._state is PENDING and not self._lost()

    def running(self) -> bool:
        """Whether a worker runs the callable now."""
        return self._state is RUNNING

    def done(self) -> bool:
        """Whether the work has finished, or was cancelled."""
        return self._state is FINISHED or self.cancelled()

    def cancelled(self) -> bool:
        """Whether cancel kept the work from running, or ended it."""
        return self._state is CANCELLED or (self._state is PENDING and self._lost())

    def _cancel_requested(self) -> bool:
        return bool(lib.iowq_cancelled(self._memory))

    def _is_cancelled_by(self, error: BaseException) -> bool:
        return isinstance(error, Skipped) or (
            self._cancel_requested()
            and (bool(lib.io_wq_worker_interrupted()) or isinstance(error, Cancelled))
        )

    def _lost(self) -> bool:
        """Whether this is a copy, in a forked child, of what stayed in the parent."""
        wq, entrance = self._wq, self._entrance
        return wq is not None and entrance is not None and wq is not entrance._wq

    def __repr__(self) -> str:
        state = _WORDS[CANCELLED if self.cancelled() else self._state]
        what = f" of {self._fn!r}" if self._fn else ""
        return f"<{type(self).__name__} {state}{what} at {id(self):#x}>"

    def _let_go(self) -> None:
        """Lets go of all that the callable needed. May be repeated if it was interrupted."""
        self._fn = self._context = self._kwargs = None
        self._args = ()
        if self._key_use is not None and self._entrance is not None:
            # the use lives on: the core has its address still
            self._entrance._queue._keys.release(self._key_use, self._memory)
        self._entrance = self._wq = None

    #: Whether it has a _result and an _exception: see Future.
    _keeps_outcome: ClassVar[bool] = False

    def _take_error(self, error: BaseException) -> bool:
        """Whether what the callable raised has found somebody to care for it."""
        queue = self._queue
        if queue is None or queue._on_error is None:
            return False
        queue._on_error(self, error)
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
        work._let_go()
        del work  # which may keep the exception, whose traceback keeps this frame


def drop(work: Work) -> str:
    """Ends a work that was cancelled before it started; called again if interrupted."""
    state = work._drop()
    work._let_go()
    return state


#: What signals' handlers raised in drop or publish, on the main thread.
interrupts: list[BaseException] = []


def raise_interrupts() -> None:
    """Raises what a signal's handler raised while works were dropped."""
    if interrupts:
        raise interrupts.pop()
