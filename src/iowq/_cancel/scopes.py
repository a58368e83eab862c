"""``with`` blocks for code inside a work: a time limit, a shield from cancel, blocking."""

from __future__ import annotations

import math
import os
import time
from types import TracebackType

from .._arguments import check_seconds
from .._native import lib
from .._work.work import Cancelled

_NS_MAX = (1 << 63) - 1


class shield:  # noqa: N801 - reads as a keyword, like contextlib's
    """Holds cancel, and time limits, back: nothing interrupts what is inside.

    For what must not be left half-done. A cancel that came meanwhile goes on at the
    end of the block, which raises ``Cancelled`` then. May be nested; does nothing
    outside of a work.
    """

    def __init__(self) -> None:
        self._entered: list[int] = []  # the works that are inside: iowq_serial()

    def __enter__(self) -> None:
        lib.io_wq_worker_shield()
        self._entered.append(lib.iowq_serial())

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        work = lib.iowq_serial()
        if work not in self._entered:
            return  # a generator's, closed elsewhere: this shield ended with its own work
        self._entered.remove(work)
        lib.io_wq_worker_unshield()
        if error is None and lib.io_wq_worker_claim():
            raise Cancelled


class blocking:  # noqa: N801
    """Says that what is inside waits for something: another worker takes over at once.

    Blocking that is not announced is noticed all the same, 50 us to 0.8 ms later. Does
    nothing outside of a work.
    """

    def __enter__(self) -> None:
        lib.io_wq_worker_sleeping()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        lib.io_wq_worker_running()


class timeout:  # noqa: N801 - as asyncio's
    """Ends what is inside, as cancel does, when time is up, and raises TimeoutError.

    It may be nested. A ``with`` that ends in time leaves nothing behind; one
    that swallows the interruption, or ends by itself after its time, raises nothing: as
    does any in a :class:`shield` or in uncancellable work, which nothing interrupts.

    :param seconds: from the beginning of the ``with``.
    :raises RuntimeError: outside of a work, or if it is entered twice.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = check_seconds("seconds", seconds)
        self._deadline = 0
        self._work = 0  # in which it was entered: iowq_serial()

    def __enter__(self) -> None:
        if self._work:
            raise RuntimeError("a timeout is entered once at a time")
        work = lib.iowq_serial()
        if not work:
            raise RuntimeError("timeout() works inside a work only")
        end = time.monotonic_ns() + self._seconds * 1e9
        self._deadline = int(end) if end < _NS_MAX and not math.isinf(end) else _NS_MAX
        self._work = work
        _entered.setdefault(work, []).append(self)
        error = _set_deadline(work)
        if error:
            self._leave()
            raise OSError(-error, f"no thread to watch the time: {os.strerror(-error)}")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        interrupted = self._work == lib.iowq_serial() and (
            isinstance(error, Cancelled) or lib.io_wq_worker_interrupted()
        )
        self._leave()
        if (
            error is not None
            and interrupted
            and time.monotonic_ns() >= self._deadline
            and not lib.io_wq_worker_cancelled()
        ):
            raise TimeoutError(f"not done in {self._seconds:g} s") from error

    def _leave(self) -> None:
        """Forgets it, whatever work this is: a generator may be closed in a later one."""
        work, self._work = self._work, 0
        left = _entered[work]
        left.remove(self)
        if not left:
            del _entered[work]
        if work == lib.iowq_serial():
            _set_deadline(work)


#: By work, those whose `with` hasn't ended. (Generators may end them in any order.)
_entered: dict[int, list[timeout]] = {}


def _set_deadline(work: int) -> int:
    """The calling work's deadline is the first of its timeouts'."""
    deadlines = [entered._deadline for entered in _entered.get(work, ())]
    return lib.io_wq_worker_set_deadline(min(deadlines, default=0))
