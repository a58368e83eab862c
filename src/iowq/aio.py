"""For asyncio: submitting to a queue that may be full, without blocking the event loop.

``loop.run_in_executor(queue, fn)`` needs nothing of this, unless the queue has a bound on
its pending work (``max_pending``): then it would wait on the event loop's thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import copy_context
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from ._executor.admission import enqueue
from ._executor.executor import QueueExecutor

if TYPE_CHECKING:
    from ._executor.admission import Admission, Offer
    from ._work.work import Work

P = ParamSpec("P")
T = TypeVar("T")


async def submit(
    executor: QueueExecutor, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
) -> asyncio.Future[T]:
    """Queues ``fn(*args, **kwargs)``, once the queue takes it; returns an awaitable future.

    Cancelling that future, or a task that awaits it, stops the work.

    :param executor: a queue, or a view of one.
    :raises iowq.WorkQueueFull: as ``executor.submit`` does.
    """
    if not isinstance(executor, QueueExecutor):
        raise TypeError(f"executor must be a WorkQueue or a view of one, not {executor!r}")
    future = executor._make_future(fn, args, kwargs, copy_context())
    await enqueue(executor, future, _wait)
    return asyncio.wrap_future(future)


async def run(
    executor: QueueExecutor, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
) -> T:
    """Returns what ``fn(*args, **kwargs)`` returns, called by a worker of the queue.

    As :func:`asyncio.to_thread`; and when it is cancelled, the work is stopped.
    """
    return await (await submit(executor, fn, *args, **kwargs))


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
