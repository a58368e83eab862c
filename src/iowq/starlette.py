"""For Starlette and FastAPI: sync endpoints on a queue, which end with their requests.

::

    app = FastAPI()
    app.add_middleware(iowq.asgi.Middleware, timeout=30)

    @app.get("/report")
    @runs_on(wq)
    def report() -> str: ...

The frameworks run sync endpoints through ``anyio.to_thread.run_sync``, which takes no
executor and can't end what it runs. An endpoint under :func:`runs_on` is a coroutine
function to them, which has the queue run the sync one. When the request ends early (see
:class:`iowq.asgi.Middleware`), the work is ended, clean-up included, and then the endpoint raises
:class:`iowq.asgi.RequestEnded`, an ordinary exception: dependencies clean up as after any other.

Needs anyio, which Starlette needs itself.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator
from concurrent.futures import Executor
from contextlib import AsyncExitStack, nullcontext
from typing import Any, ParamSpec, TypeVar

import anyio

from ._arguments import check_callable
from .anyio import run_sync
from .asgi import current_request

P = ParamSpec("P")
T = TypeVar("T")

__all__ = ["iterate", "run", "runs_on"]


async def run(executor: Executor, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Returns what ``fn(*args, **kwargs)`` returns, called by the executor for this request.

    If the request ends first, or has ended, the work is ended; :func:`iowq.anyio.run_sync`
    runs what is to go on, as clean-up is.

    :param executor: a queue, or ``wq.within(seconds)`` and the like.
    :raises iowq.asgi.RequestEnded: once the work has come to its end.
    """
    request = current_request()
    call = functools.partial(fn, *args, **kwargs)
    with anyio.CancelScope() as scope:
        with request.ending(scope.cancel) if request else nullcontext():
            return await run_sync(call, executor=executor)
    assert request
    raise request.reason()


def runs_on(
    executor: Executor,
) -> Callable[[Callable[P, T]], Callable[P, Coroutine[Any, Any, T]]]:
    """Makes a sync endpoint, or a sync dependency without ``yield``, a work of the executor.

    :raises TypeError: if it is no sync function.
    """

    def decorate(fn: Callable[P, T]) -> Callable[P, Coroutine[Any, Any, T]]:
        check_callable("fn", fn)
        if inspect.iscoroutinefunction(fn) or inspect.isgeneratorfunction(fn):
            raise TypeError(f"fn must be a sync function that doesn't yield, not {fn!r}")

        @functools.wraps(fn)
        async def endpoint(*args: P.args, **kwargs: P.kwargs) -> T:
            return await run(executor, fn, *args, **kwargs)

        return endpoint

    return decorate


async def iterate(executor: Executor, iterator: Iterator[T]) -> AsyncIterator[T]:
    """Yields what an iterator yields, for a ``StreamingResponse``; each step is a work.

    If the request ends first, the step that runs is ended; then the iterator is closed, if it
    is a generator, by a work of its own that nothing ends.
    """
    end = object()
    async with AsyncExitStack() as clean_up:
        clean_up.push_async_callback(_close, executor, iterator)
        if request := current_request():  # who reads this may forget to close it
            request.clean_up.push_async_callback(clean_up.aclose)
        while (item := await run(executor, next, iterator, end)) is not end:
            yield item  # type: ignore[misc]  # it is no other object


async def _close(executor: Executor, iterator: Iterator[Any]) -> None:
    if isinstance(iterator, Generator):
        with anyio.CancelScope(shield=True):
            await run_sync(iterator.close, executor=executor)
