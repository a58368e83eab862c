"""Views of a queue: executors whose works have some properties in common."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from .._native import lib
from .executor import NO_KEY, QueueExecutor, TimeLimit

if TYPE_CHECKING:
    from .._work.work import Work
    from .queue import WorkQueue


class ExecutorView(QueueExecutor):
    """An executor on a queue whose works have more properties than those of another one.

    :param outer: the queue, or a view of it, whose properties they have, too.
    """

    def __init__(
        self,
        outer: QueueExecutor,
        *,
        key: object = NO_KEY,
        flags: int = 0,
        node: int | None = None,
        seconds: float | None = None,
    ) -> None:
        self._narrow_from(outer)
        if key is NO_KEY:
            key = getattr(outer, "_key", NO_KEY)
        if key is not NO_KEY:
            self._key = key
        self._flags = outer._flags | flags
        if node is not None:
            shift = lib.IO_WQ_WORK_NODE_SHIFT
            self._flags = self._flags & (1 << shift) - 1 | (node + 1) << shift
        limits = [limit for limit in (outer._seconds, seconds) if limit is not None]
        if limits and self._flags & lib.IO_WQ_WORK_UNCANCELLABLE:
            raise TypeError("uncancellable work can't have a time limit")
        if limits:
            self._seconds = min(limits)
            self._limit = functools.partial(TimeLimit, self._seconds)

    @property
    def _queue(self) -> WorkQueue:
        return self._outer_queue  # type: ignore[no-any-return]

    @property
    def _wq(self) -> Any:
        return self._outer_queue._wq

    def _narrow(self, **properties: Any) -> ExecutorView:
        return ExecutorView(self, **properties)

    def _has_enqueued(self, work: Work) -> bool:
        """Whether the work was enqueued here, or by a view that was made from this one."""
        executor = work._executor
        while isinstance(executor, ExecutorView) and executor is not self:
            executor = executor._outer
        return executor is self

    def _cancel_works(self) -> None:
        self._queue.cancel_if(self._has_enqueued)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Closes this view, and those made from it; the queue and its other views stay open.

        :param wait: until all work that the queue has now has finished. Ctrl-C meanwhile
            cancels this view's.
        :param cancel_futures: cancel this view's works that haven't started.
        """
        self._closed = True
        if cancel_futures:
            for work in self._queue._pending():
                if self._has_enqueued(work) and work.pending():
                    self._queue.cancel(work)
        if wait:
            with self._cancelling_if_interrupted():
                self._queue.flush()

    def __repr__(self) -> str:
        return f"<a view of {self._queue!r}>"
