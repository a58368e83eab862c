"""Executors: the ways into a queue, of which the queue itself is the plainest."""

from __future__ import annotations

import errno
import functools
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import Context, copy_context
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

from . import _map, _scopes
from ._arguments import check_callable, check_int, check_seconds, deadline_after
from ._future import Future
from ._native import lib
from ._work import Work

if TYPE_CHECKING:
    from typing_extensions import Self  # typing's own from 3.11 on

    from ._chain import Chain
    from ._queue import WorkQueue

P = ParamSpec("P")
T = TypeVar("T")

_NO_KEY: Final = object()
_INT_MAX = (1 << 63) - 1


class Entrance(ThreadPoolExecutor):
    """A :class:`concurrent.futures.Executor` whose works all have the same properties.

    They add up: ``wq.unbounded.hashed(key).within(5)``. It is a ``ThreadPoolExecutor``
    by name only, for those who insist on one, as ``loop.set_default_executor`` does.
    """

    _wq: Any  # struct io_wq *
    _key: object = _NO_KEY
    _flags: int = 0
    _seconds: float | None = None
    _takes_chunks = True  # map may make one work of several calls
    _closed = False

    @property
    def _queue(self) -> WorkQueue:
        raise NotImplementedError

    @property
    def _max_workers(self) -> int:  # type: ignore[override]  # dask asks for it
        return self._queue._concurrency

    def enqueue(self, fn: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs) -> Work:
        """Queues ``fn(*args, **kwargs)``; first in, first started.

        The work sees the caller's context variables. What it returns is dropped;
        what it raises is reported (see ``on_error``).
        """
        work = Work(self, self._limited(fn), args, kwargs, copy_context())
        self._enter(work, self._key)
        return work

    def enqueue_hashed(
        self, key: Hashable, fn: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs
    ) -> Work:
        """Queues ``fn(*args, **kwargs)`` behind all earlier work with an equal key.

        Works with equal keys never run in parallel, and run in the order in which
        they were enqueued; works with different keys don't wait for each other.
        """
        work = Work(self, self._limited(fn), args, kwargs, copy_context())
        self._enter(work, key)
        return work

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Queues ``fn(*args, **kwargs)`` as :meth:`enqueue` does, and keeps its outcome."""
        future = self._new_future(self._limited(fn), args, kwargs, copy_context())
        self._enter(future, self._key)
        return future

    def _new_future(
        self, fn: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any], context: Context
    ) -> Future[T]:
        return Future(self, fn, args, kwargs, context)

    def _limited(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        if not callable(fn):
            check_callable("fn", fn)
        return fn if self._seconds is None else TimeLimit(self._seconds, fn)

    def _enter(self, work: Work, key: object) -> None:
        try:
            error = self._offer(work, key)
            if error:
                self._not_taken(work, key, error)
        except BaseException:
            if not work._is_taken():
                self._queue._give_up(work)
            raise

    def _offer(self, work: Work, key: Any) -> int:
        """Enqueues a work, or says why not: 0 or a negative errno. May be repeated."""
        value = 0
        if key is not _NO_KEY:
            if work._key_use is None:
                work._key_use = self._queue._keys.acquire(key, work._memory)
            value = id(work._key_use)
        return lib.iowq_enqueue(work._wq, work._memory, id(work), value, self._flags)

    def _not_taken(self, work: Work, key: object, error: int) -> None:
        """Waits, if the queue was full, until it takes the work; or raises."""
        queue = self._queue
        if error == -errno.EBUSY:
            offer = functools.partial(self._offer, work, key)
            error = queue._room.wait(work, offer, queue._full_timeout)
        if error:
            queue._refused(work, error)

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """Returns an iterator over ``fn(*items)`` for the items of the iterables.

        It calls fn for all of them from now on, not only when it is asked for results.
        When it is closed, fails, or its time is up, the rest is cancelled.

        :param timeout: seconds from now, after which it raises ``TimeoutError`` instead of
            waiting for a result; it doesn't bound the wait for room in a full queue.
        :param chunksize: how many calls make one work: more, if they are short.
        :param buffersize: how many works are begun or pending at a time, of which the
            results have not been asked for; None: all.
        """
        check_callable("fn", fn)
        check_int("chunksize", chunksize, 1, _INT_MAX)
        if buffersize is not None:
            _check_buffersize(buffersize)
        deadline = deadline_after(timeout)
        items = zip(*iterables)  # noqa: B905 - as map does
        if chunksize == 1 or not self._takes_chunks:
            return _map.map_items(self.submit, fn, items, deadline, buffersize)
        return _map.map_chunks(self.submit, fn, items, deadline, buffersize, chunksize)

    # ---- narrower ways in

    def hashed(self, key: Hashable) -> Entrance:
        """Returns an executor whose works all have this key: in order, one at a time."""
        hash(key)
        return self._narrow(key=key)

    def within(self, seconds: float) -> Entrance:
        """Returns an executor whose works are ended if they run longer than that.

        They raise ``TimeoutError`` then, as inside of :class:`iowq.timeout`.
        """
        return self._narrow(seconds=check_seconds("seconds", seconds))

    @property
    def uncancellable(self) -> Entrance:
        """An executor whose works are never interrupted once they run.

        Cancel keeps such work from starting, or waits for it. Once it runs, no system
        call of it is ended and no exception is raised in it. It can still ask
        whether cancel was asked for.
        """
        return self._narrow(flags=lib.IO_WQ_WORK_UNCANCELLABLE)

    @property
    def unbounded(self) -> Entrance:
        """An executor whose works may block for ever, on a socket or a pipe, say.

        They have workers of their own (see ``unbounded`` of :class:`WorkQueue`), so that
        they never take one from the queue's other works.
        """
        return self._narrow(flags=lib.IO_WQ_WORK_UNBOUND)

    def on_node(self, node: int) -> Entrance:
        """Returns an executor whose works run on that NUMA node.

        While the queue's workers may use no CPU of it (see ``set_affinity``), on the
        nearest that they may. Without libnuma there are no nodes, and it makes no difference.

        :param node: the kernel's number.
        """
        check_int("node", node, 0, (1 << 10) - 2)
        known = [known.id for known in self._queue._all_nodes().nodes]
        if None in known:
            return self._narrow()
        if node not in known:
            raise ValueError(f"node {node!r} is not one that this queue has workers for: {known}")
        return self._narrow(node=node)

    def chain(self) -> Chain:
        """Returns an executor for linked works: a new chain, which is empty."""
        from ._chain import Chain  # which is an entrance itself

        if self._key is not _NO_KEY:
            raise TypeError("a chain has a key of its own, it can't be hashed or a chain already")
        return Chain(self, key=object())

    def _narrow(self, **narrower: Any) -> Entrance:
        return View(self, **narrower)

    # ---- the end

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(error, KeyboardInterrupt):
            self._cancel_works()
        self.shutdown()

    @contextmanager
    def _cancelling_if_interrupted(self) -> Iterator[None]:
        """What waits for works, and cancels them if it is given up."""
        try:
            yield
        except (KeyboardInterrupt, SystemExit):
            self._cancel_works()
            raise

    def _cancel_works(self) -> None:
        """Cancels what came in here, pending or running."""
        raise NotImplementedError


class View(Entrance):
    """Another entrance to the same queue."""

    def __init__(
        self,
        outer: Entrance,
        *,
        key: object = _NO_KEY,
        flags: int = 0,
        node: int | None = None,
        seconds: float | None = None,
    ) -> None:
        self._outer = outer
        self._outer_queue = outer._queue
        self._key = outer._key if key is _NO_KEY else key
        self._flags = outer._flags | flags
        if node is not None:
            shift = lib.IO_WQ_WORK_NODE_SHIFT
            self._flags = self._flags & (1 << shift) - 1 | (node + 1) << shift
        limits = [limit for limit in (outer._seconds, seconds) if limit is not None]
        if limits and self._flags & lib.IO_WQ_WORK_UNCANCELLABLE:
            raise TypeError("uncancellable work can't have a time limit")
        self._seconds = min(limits, default=None)

    @property
    def _queue(self) -> WorkQueue:
        return self._outer_queue

    @property
    def _wq(self) -> Any:
        return self._outer_queue._wq

    def _offer(self, work: Work, key: Any) -> int:
        return -errno.ESHUTDOWN if self._is_closed() else super()._offer(work, key)

    def _is_closed(self) -> bool:
        """Whether this entrance is closed, or one that it was made from."""
        entrance: Entrance = self
        while isinstance(entrance, View) and not entrance._closed:
            entrance = entrance._outer
        return entrance._closed

    def _has_let_in(self, work: Work) -> bool:
        """Whether the work came in here, or by an entrance that was made from this one."""
        entrance = work._entrance
        while isinstance(entrance, View) and entrance is not self:
            entrance = entrance._outer
        return entrance is self

    def _cancel_works(self) -> None:
        self._queue.cancel_if(self._has_let_in)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Closes this entrance, and those made from it; the queue's others stay open.

        :param wait: until all work that the queue has now has finished. Ctrl-C meanwhile
            cancels what came in here.
        :param cancel_futures: cancel what came in here and hasn't started.
        """
        self._closed = True
        if cancel_futures:
            for work in self._queue._pending():
                if self._has_let_in(work) and work.pending():
                    self._queue.cancel(work)
        if wait:
            with self._cancelling_if_interrupted():
                self._queue.flush()

    def __repr__(self) -> str:
        return f"<an entrance to {self._queue!r}>"


class TimeLimit:
    """A callable with a limit for each of its calls."""

    def __init__(self, seconds: float, fn: Callable[..., object]) -> None:
        self._seconds = seconds
        self._fn = fn

    def __call__(self, /, *args: Any, **kwargs: Any) -> object:
        with _scopes.timeout(self._seconds):
            return self._fn(*args, **kwargs)

    def __repr__(self) -> str:
        return f"{self._fn!r} within {self._seconds:g} s"


def _check_buffersize(buffersize: object) -> None:
    """Says what the standard library says, and what was given."""
    if not isinstance(buffersize, int) or isinstance(buffersize, bool):
        kind = type(buffersize).__name__
        raise TypeError(f"buffersize must be an integer or None, not {kind}: {buffersize!r}")
    if not 1 <= buffersize <= _INT_MAX:
        limits = f"None or > 0, and at most {_INT_MAX}"
        raise ValueError(f"buffersize must be {limits}, not {buffersize!r}")
