"""One run of a task: the part of it that may be ended."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from dask.utils import parse_timedelta
from distributed.exceptions import Reschedule

from .._arguments import check_seconds
from .._cancel.inside import current_work
from .._cancel.scopes import interruptible
from .._cancel.scopes import timeout as time_limit

if TYPE_CHECKING:
    from .._work.work import Work
    from .executor import ThreadPoolExecutor


class Run:
    """Stands in for a task's ``run_spec`` while it runs once, and calls that.

    A run that is cancelled ends as if the task had asked to be run elsewhere (``Reschedule``).
    That is Dask's own word for a run that doesn't count: if nobody wants the task any more it is
    forgotten, and if somebody has come to want it meanwhile, it runs anew. An error would be
    theirs.

    :param limit: the seconds that it may take, as the annotation has them; None: no limit.
    :param keep: is told what the task returns.
    """

    def __init__(
        self,
        spec: Any,
        executor: ThreadPoolExecutor | None,
        limit: Any,
        keep: Callable[[Any], None],
    ) -> None:
        self.spec = spec
        self.is_coro: bool = spec.is_coro
        self.ended: list[Callable[[], None]] = []
        """What is to be called when the worker's state knows of the end."""
        self._executor = executor
        self._limit = limit
        self._keep = keep
        self._cancelled = False
        self._begun = False
        self._work: Work | None = None
        self._task: asyncio.Future[Any] | None = None

    def __repr__(self) -> str:
        return repr(self.spec)

    def __call__(self, values: dict[Any, Any]) -> Any:
        """Called by Dask, where it would call the spec."""
        if self.is_coro:
            return self._await(values)
        self._work = current_work()  # first told, and then asked: cancel does it the other way
        try:
            if self._cancelled:
                raise Reschedule
            self._begun = True
            result = self._call(values)
        except BaseException:
            if self._cancelled:
                raise Reschedule from None
            raise
        finally:
            self._work = None  # which keeps the result
        self._keep(result)
        return result

    def _call(self, values: dict[Any, Any]) -> Any:
        with interruptible():
            if self._limit is None:
                return self.spec(values)
            with time_limit(_seconds(self._limit)):
                return self.spec(values)

    async def _await(self, values: dict[Any, Any]) -> Any:
        limit = None if self._limit is None else _seconds(self._limit)
        self._task = asyncio.ensure_future(_within(limit, self.spec(values)))
        try:
            result = await self._task
        except asyncio.CancelledError:
            if self._cancelled:
                raise Reschedule from None
            raise
        self._keep(result)
        return result

    def cancel(self) -> bool:
        """Ends it; returns whether it has begun. Called by the event loop's thread."""
        self._cancelled = True
        if self._task is not None:
            return self._task.cancel()
        work = self._work
        if work is not None and self._executor is not None:
            self._executor.cancel(work)
        return self._begun


def _seconds(limit: Any) -> float:
    """Returns a limit in seconds, as Dask takes one: a number, ``"5s"``, or a timedelta."""
    if isinstance(limit, (str, timedelta)):
        try:
            limit = parse_timedelta(limit)
        except KeyError as error:
            raise ValueError(f"timeout has an unknown unit: {limit!r}") from error
    if not check_seconds("timeout", limit):
        raise ValueError(f"timeout must be more than 0, not {limit!r}")
    return float(limit)


async def _within(seconds: float | None, call: Awaitable[Any]) -> Any:
    if seconds is None:
        return await call
    end = time.monotonic() + seconds
    try:
        return await asyncio.wait_for(call, seconds)
    except asyncio.TimeoutError:
        if time.monotonic() < end:
            raise  # its own
        raise TimeoutError(f"not done in {seconds:g} s") from None
