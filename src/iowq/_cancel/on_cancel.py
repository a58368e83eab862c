"""The application's own way to stop what a work does: ``with iowq.on_cancel(...)``.

The core interrupts no work that wants notice (``io_wq_worker_want_notice``): it has the
package called for it first, on the canceller's thread, again and again until notice has
been given. A thread of its own then calls what the ``with`` blocks say, so that one that
hangs holds up nobody else. After that the work has its grace period to end by itself, and is
interrupted as any other if it doesn't.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable
from contextvars import Context, copy_context
from types import TracebackType
from typing import TYPE_CHECKING, ParamSpec

from .._arguments import check_callable
from .._native import lib

if TYPE_CHECKING:
    from .._work.work import Work

P = ParamSpec("P")

#: Milliseconds that a work waits for its callables, before it is interrupted all the same.
PATIENCE = 1000

_lock = threading.Lock()  # guards all below; held for some instructions only
_entered: dict[int, list[on_cancel]] = {}  # by work: iowq_serial()
_begun: dict[int, int] = {}  # works that are being given notice: since when, by injecting_ms


class on_cancel:  # noqa: N801 - reads as a keyword, like contextlib's
    """Has a callable called when the work is cancelled, before anything interrupts it.

    For what stops the work in its own way: ``connection.cancel``, ``process.kill``. It is
    called once, on a thread of its own, if cancel comes, or a time limit passes, inside of
    the ``with``; then the work has a second to end by itself. The end of the ``with`` waits
    for a call that is under way, so that none comes after it. What the callable raises
    goes to ``sys.unraisablehook``. Nested blocks' are called from the innermost on. Outside of
    a work it does nothing.
    """

    def __init__(self, fn: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs) -> None:
        check_callable("fn", fn)
        self._call = functools.partial(fn, *args, **kwargs)
        self._context: Context | None = None  # the work's, while it is inside
        self._work = 0  # that it was entered in
        self._called = False
        self._running = threading.Lock()  # while the callable is called

    def __enter__(self) -> None:
        if self._context is not None:
            raise RuntimeError("an on_cancel is entered once at a time")
        self._work, self._called, self._context = lib.iowq_serial(), False, copy_context()
        if self._work:
            with _lock:
                _entered.setdefault(self._work, []).append(self)
            lib.io_wq_worker_want_notice(1)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        work, self._work = self._work, 0
        with _lock:
            left = _entered.get(work, [])
            if self in left:
                left.remove(self)
            if not left:
                _entered.pop(work, None)
        if not left and work == lib.iowq_serial():
            lib.io_wq_worker_want_notice(0)
        with self._running:  # a call that is under way ends first
            self._context = None

    def _give(self, work: Work) -> None:
        """Calls the callable, if its block hasn't been left."""
        with self._running:
            if not self._work or self._context is None:
                return
            try:
                self._context.run(self._call)
            except BaseException as error:
                lib.iowq_report(id(error), id(work))


def give_notice(work: Work, serial: int, injecting_ms: int) -> bool:
    """Called for a work that no signal ends; returns whether that is for want of notice.

    :param serial: the work's iowq_serial().
    :param injecting_ms: since it was called for this work first.
    """
    with _lock:
        todo = [hook for hook in reversed(_entered.get(serial, ())) if not hook._called]
        for hook in todo:
            hook._called = True
        begun = _begun.get(serial)
        if todo:
            _begun[serial] = injecting_ms
    if todo:
        lib.iowq_give_notice(id(work), serial, 0)
        _start(work, serial, todo)
    elif begun is None:
        return False
    elif injecting_ms - begun > PATIENCE:
        _end(work, serial)
    return True


def _start(work: Work, serial: int, todo: Iterable[on_cancel]) -> None:
    def give_all() -> None:
        for hook in todo:
            hook._give(work)
        _end(work, serial)

    try:
        threading.Thread(target=give_all, name="iowq-on-cancel", daemon=True).start()
    except RuntimeError as error:  # no thread, or the interpreter exits
        lib.iowq_report(id(error), id(work))
        _end(work, serial)


def _end(work: Work, serial: int) -> None:
    with _lock:
        _begun.pop(serial, None)
    lib.iowq_give_notice(id(work), serial, 1)


def after_fork() -> None:
    """In a forked child: the works stayed in the parent."""
    global _lock
    _lock = threading.Lock()
    _entered.clear()
    _begun.clear()
