"""``Executor.map``: works for the items of iterables, results in their order."""

from __future__ import annotations

import contextlib
import functools
import itertools
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, TypeVar

from .._native import lib
from .._work.future import Future

T = TypeVar("T")

_Submit = Callable[..., Future[Any]]
#: A chunk's results, and what the call after them raised.
_Chunk = tuple[list[T], Exception | None]


def map_items(
    submit: _Submit,
    fn: Callable[..., T],
    items: Iterator[tuple[Any, ...]],
    deadline: float | None,
    buffersize: int | None,
) -> Generator[T, None, None]:
    """Submits ``fn(*item)`` for each item at once, or for buffersize of them at a time.

    What is left is cancelled when the iterator is closed, fails, or its time is up.
    """
    futures: deque[Future[T]] = deque()
    submit_fn = functools.partial(submit, fn)
    try:
        futures.extend(itertools.starmap(submit_fn, itertools.islice(items, buffersize)))
    except BaseException:
        _cancel_all(futures)
        raise
    if buffersize is None:
        return _results(futures, deadline)
    return _results(futures, deadline, submit_fn, items)


def _results(
    futures: deque[Future[T]],
    deadline: float | None,
    submit_fn: _Submit | None = None,  # which keeps the queue: only if there is more
    items: Iterable[tuple[Any, ...]] = (),
) -> Generator[T, None, None]:
    try:
        while futures:
            if submit_fn is not None:
                futures.extend(itertools.starmap(submit_fn, itertools.islice(items, 1)))
            yield _result_or_cancel(futures.popleft(), deadline)
    finally:
        _cancel_all(futures)


def _cancel_all(futures: deque[Future[T]]) -> None:
    for future in futures:
        future.cancel()


def _result_or_cancel(future: Future[T], deadline: float | None) -> T:
    """The iterator must not keep the future, nor what it returned."""
    try:
        return future.result(None if deadline is None else deadline - time.monotonic())
    except BaseException:
        future.cancel()
        raise
    finally:
        del future  # whose exception's traceback keeps this frame


def map_chunks(
    submit: _Submit,
    fn: Callable[..., T],
    items: Iterator[tuple[Any, ...]],
    deadline: float | None,
    buffersize: int | None,
    chunksize: int,
) -> Iterator[T]:
    """As :func:`map_items`, with one work for each chunksize items."""
    lists = iter(lambda: list(itertools.islice(items, chunksize)), [])
    chunks = ((fn, chunk) for chunk in lists)
    return _flatten(map_items(submit, _call_for_each, chunks, deadline, buffersize))


def _call_for_each(fn: Callable[..., T], items: Iterable[tuple[Any, ...]]) -> _Chunk[T]:
    results: list[T] = []
    try:
        results.extend(fn(*item) for item in items)
    except Exception as error:
        if lib.io_wq_worker_cancelled() or lib.io_wq_worker_interrupted():
            raise  # it ends the whole work
        return results, error
    return results, None


def _flatten(chunks: Generator[_Chunk[T], None, None]) -> Iterator[T]:
    with contextlib.closing(chunks):
        for results, error in chunks:
            results.reverse()
            while results:
                yield results.pop()  # and keep no reference
            if error is not None:
                raise error
