"""For asyncio: works whose futures are the event loop's own.

``await iowq.aio.run(wq, fn, ...)`` is the short way. :class:`LoopExecutor` makes a queue an
executor for ``loop.run_in_executor`` and ``loop.set_default_executor``, at the same price.
``loop.run_in_executor(wq, fn)`` works, too, but wakes the loop for each work by itself.

A queue that is full (``max_pending``) is waited for without blocking the event loop by
:func:`run` and :func:`submit`; ``run_in_executor`` waits on the event loop's thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, TypeVar

from ._executor.admission import enqueue, not_taken
from ._executor.executor import QueueExecutor
from ._executor.loop_futures import make_loop_work
from ._executor.queue import WorkQueue
from ._executor.views import ExecutorView
from ._once import once
from ._work.future import Future

if TYPE_CHECKING:
    from ._executor.admission import Admission, Offer
    from ._work.work import Work

P = ParamSpec("P")
T = TypeVar("T")

__all__ = ["LoopExecutor", "run", "submit", "to_thread"]


async def submit(
    executor: QueueExecutor, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
) -> asyncio.Future[T]:
    """Queues ``fn(*args, **kwargs)``, once the queue takes it; returns an awaitable future.

    Cancelling that future, or a task that awaits it, stops the work.

    :param executor: a queue, or a view of one.
    :raises iowq.WorkQueueFull: as ``executor.submit`` does.
    """
    if _is_chain(executor):
        link = executor._make_future(fn, args, kwargs, copy_context())
        await enqueue(executor, link, _wait)
        return asyncio.wrap_future(link)
    work, future, error = _start(executor, fn, args, kwargs)
    if error:
        await not_taken(executor, work, error, _wait)
    return future


async def run(
    executor: QueueExecutor, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
) -> T:
    """Returns what ``fn(*args, **kwargs)`` returns, called by a worker of the queue.

    As :func:`asyncio.to_thread`; and when it is cancelled, the work is stopped.
    """
    if _is_chain(executor):
        return await (await submit(executor, fn, *args, **kwargs))
    work, future, error = _start(executor, fn, args, kwargs)  # without another coroutine
    if error:
        await not_taken(executor, work, error, _wait)
    return await future


def _is_chain(executor: object) -> bool:
    """Whether its works have futures of their own. Refuses what is no queue, nor a view."""
    if not isinstance(executor, QueueExecutor):
        raise TypeError(f"executor must be a WorkQueue or a view of one, not {executor!r}")
    return executor._new_future is not Future


def _start(
    executor: QueueExecutor, fn: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Work, asyncio.Future[T], int]:
    """Returns a work that was offered to the queue, its future, and what the queue said."""
    work = make_loop_work(asyncio.get_running_loop(), executor, fn, args, kwargs)
    return work, work.future, executor._offer(work)


async def to_thread(func: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Returns what ``func(*args, **kwargs)`` returns, as :func:`asyncio.to_thread` does.

    It is called by a worker of a queue that the process has for this, of the default
    concurrency; and when it is cancelled, the work is stopped.
    """
    return await run(_own_queue(), func, *args, **kwargs)


@once
def _own_queue() -> WorkQueue:
    return WorkQueue(name="iowq-aio")


class LoopExecutor(ExecutorView):
    """A view of a queue whose ``submit`` returns futures of the event loop that runs.

    ``loop.run_in_executor`` and ``asyncio.wrap_future`` pass these through as they are. On a
    thread without a running loop ``submit`` is the queue's own.

    :param executor: a queue, or a view of one; not a chain, which has futures of its own.
    :raises TypeError: if it is something else.
    """

    def __init__(self, executor: QueueExecutor, **properties: Any) -> None:  # noqa: D107
        if _is_chain(executor):
            raise TypeError(f"executor must not be a chain: {executor!r}; use iowq.aio.submit")
        super().__init__(executor, **properties)

    def submit(  # type: ignore[override]  # a future of another kind
        self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> asyncio.Future[T] | Future[T]:
        """Queues ``fn(*args, **kwargs)``; cancelling the future stops the work."""
        if asyncio._get_running_loop() is None:
            return super().submit(fn, *args, **kwargs)
        work, future, error = _start(self, fn, args, kwargs)
        if error:
            self._not_taken(work, error)
        return future

    def chain(self) -> NoReturn:
        """Raises TypeError: make the chain of the queue, and use :func:`submit`."""
        raise TypeError("a chain has futures of its own: make it of the queue")

    def map(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        """As that of the queue, with the properties that works have here."""
        return ExecutorView(self).map(*args, **kwargs)

    def _narrow(self, **properties: Any) -> LoopExecutor:
        return LoopExecutor(self, **properties)


async def _wait(admission: Admission, work: Work, offer: Offer, timeout: float | None) -> int:
    """As :meth:`Admission.wait`, without blocking the event loop."""
    loop = asyncio.get_running_loop()
    woken = False
    over = asyncio.Event()  # woken, or it's time

    def set_woken() -> None:
        nonlocal woken
        woken = True
        over.set()

    def wake() -> bool:
        try:
            loop.call_soon_threadsafe(set_woken)
        except RuntimeError:
            if not loop.is_closed():
                raise
            return False
        return True

    async def woken_within(seconds: float) -> bool:
        nonlocal woken
        timer = loop.call_later(seconds, over.set)  # wait_for loses cancels up to 3.11
        try:
            await over.wait()
        finally:
            timer.cancel()
        over.clear()
        was_woken, woken = woken, False
        return was_woken

    return await admission.wait_async(work, offer, timeout, wake, woken_within)
