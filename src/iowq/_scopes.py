"""``with`` blocks for code inside a work: a time limit, and a shield from cancel."""

from __future__ import annotations

import math
import os
import time
from types import TracebackType

from ._arguments import check_seconds
from ._native import lib
from ._work import Cancelled

_NS_MAX = (1 << 63) - 1


class shield:  # noqa: N801 - reads as a keyword, like contextlib's
    """Holds cancel, and time limits, back: nothing interrupts what is inside.

    For what must not be left half-done. A cancel that came meanwhile goes on at the
    end of the block, which raises ``Cancelled`` then. May be nested; does nothing
    outside of a work.
    """

    def __enter__(self) -> None:
        lib.io_wq_worker_shield()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        lib.io_wq_worker_unshield()
        if error is None and not lib.io_wq_worker_shielded() and lib.iowq_claim_current():
            raise Cancelled


class timeout:  # noqa: N801 - as asyncio's
    """Ends what is inside, as cancel does, when time is up, and raises TimeoutError.

    It may be nested. A ``with`` that ends in time leaves nothing behind; one
    that swallows the interruption, or ends by itself after its time, raises nothing.

    :param seconds: from the beginning of the ``with``.
    :raises RuntimeError: outside of a work.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = check_seconds("seconds", seconds)
        self._deadline = 0
        self._outer = 0

    def __enter__(self) -> None:
        self._outer = lib.io_wq_worker_deadline()
        if self._outer < 0:
            raise RuntimeError("timeout() works inside a work only")
        end = time.monotonic_ns() + self._seconds * 1e9
        self._deadline = int(end) if end < _NS_MAX and not math.isinf(end) else _NS_MAX
        error = lib.io_wq_worker_set_deadline(min(self._deadline, self._outer or _NS_MAX))
        if error:
            lib.io_wq_worker_set_deadline(self._outer)
            raise OSError(-error, f"no thread to watch the time: {os.strerror(-error)}")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        interrupted = isinstance(error, Cancelled) or lib.io_wq_worker_interrupted()
        lib.io_wq_worker_set_deadline(self._outer)
        if (
            error is not None
            and interrupted
            and time.monotonic_ns() >= self._deadline
            and not lib.io_wq_worker_cancelled()
        ):
            raise TimeoutError(f"not done in {self._seconds:g} s") from error
