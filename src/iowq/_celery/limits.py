"""A task's time limits, as Celery has them."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from celery.exceptions import SoftTimeLimitExceeded
from celery.utils.log import get_logger

from .._cancel.scopes import timeout
from .._work.work import Cancelled

LOGGER = get_logger("celery.pool")


class HardLimitReached(Cancelled):
    """Ends a task at its ``time_limit``. No ``except Exception`` eats it, nor Celery's tracer."""


class Limits(NamedTuple):
    """In seconds from the task's start; None or 0: there is none."""

    soft: float | None = None
    hard: float | None = None

    @contextmanager
    def kept(self, started: float) -> Iterator[None]:
        """Ends what is inside at the hard limit, and raises an exception there at the soft one.

        :param started: by ``time.monotonic``.
        """
        if not (self.soft or self.hard):
            yield
            return
        with (
            timeout(_left(self.hard, started), HardLimitReached),  # the outer one comes first
            timeout(_left(self.soft, started), SoftTimeLimitExceeded),
        ):
            yield
        if is_past(self.hard, started):
            raise HardLimitReached  # who swallowed it is late all the same


def seconds_of(limit: object) -> float | None:
    """Returns a limit that came with a message, in which anybody may write anything."""
    if limit is None:
        return None
    try:
        seconds = float(limit)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        seconds = math.nan
    if math.isnan(seconds):
        LOGGER.warning("A time limit that is no number is ignored: %r", limit)
        return None
    return seconds


def is_past(limit: float | None, started: float) -> bool:
    """Whether there is such a limit, and its time is up."""
    return bool(limit) and time.monotonic() >= started + (limit or 0)


def _left(limit: float | None, started: float) -> float:
    return max(started + limit - time.monotonic(), 0) if limit else math.inf
