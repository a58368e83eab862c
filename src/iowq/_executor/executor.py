"""What the queue and its views have in common as executors."""

from __future__ import annotations

import errno
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import Context
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, ParamSpec, TypeVar

from .._arguments import check_callable, check_int, check_seconds, deadline_after
from .._cancel.scopes import timeout as time_limit
from .._native import lib
from .._types import ExecutorBase
from .._work.future import Future
from .map import map_chunks, map_items

if TYPE_CHECKING:
    from typing_extensions import Self  # typing's own from 3.11 on

    from .._work.work import Work
    from .chain import Chain
    from .queue import WorkQueue
    from .views import ExecutorView

P = ParamSpec("P")
T = TypeVar("T")

NO_KEY: Final = object()
_INT_MAX = (1 << 63) - 1


class QueueExecutor(ExecutorBase, ThreadPoolExecutor):
    """A :class:`concurrent.futures.Executor` on a queue: :class:`WorkQueue`, or a view of one.

    Views add up: ``wq.unbounded.hashed(key).within(5)``. It is a ``ThreadPoolExecutor``
    by name only, for those who insist on one, as ``loop.set_default_executor`` does.
    """

    _wq: Any  # struct io_wq *
    _seconds: float | None = None  # that all its works have at most

    _new_future: ClassVar[type[Future[Any]]] = Future
    _takes_chunks = True  # map may make one work of several calls

    @property
    def _queue(self) -> WorkQueue:
        raise NotImplementedError

    @property
    def _max_workers(self) -> int:  # type: ignore[override]  # dask asks for it
        return self._queue._concurrency

    # ---- works: enqueue, enqueue_hashed and submit are the binding's

    def _make_future(
        self, fn: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any], context: Context
    ) -> Future[T]:
        """Returns what submit() does, not enqueued yet."""
        return self._new_future(self, self._limited(fn), args, kwargs, context)

    def _limited(self, fn: Callable[..., T]) -> Callable[..., T]:
        check_callable("fn", fn)
        return self._limit(fn) if hasattr(self, "_limit") else fn

    def _not_taken(self, work: Work, error: int) -> None:
        """Waits, if the queue was full, until it takes the work; or raises."""
        queue = self._queue
        try:
            if error == -errno.EBUSY:
                error = queue._admission.wait(work, self._offer, queue._full_timeout)
        except BaseException:
            if not work._taken:
                queue._give_up(work)
            raise
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
            waiting for a result; it doesn't bound the wait for admission to a full queue.
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
            return map_items(self.submit, fn, items, deadline, buffersize)
        return map_chunks(self.submit, fn, items, deadline, buffersize, chunksize)

    # ---- views

    def hashed(self, key: Hashable) -> ExecutorView:
        """Returns an executor whose works all have this key: in order, one at a time."""
        hash(key)
        return self._narrow(key=key)

    def within(self, seconds: float) -> ExecutorView:
        """Returns an executor whose works are ended if they run longer than that.

        They raise ``TimeoutError`` then, as inside of :class:`iowq.timeout`.
        """
        return self._narrow(seconds=check_seconds("seconds", seconds))

    @property
    def uncancellable(self) -> ExecutorView:
        """An executor whose works are never interrupted once they run.

        Cancel keeps such work from starting, or waits for it. Once it runs, no system
        call of it is ended and no exception is raised in it. It can still ask
        whether cancel was asked for.
        """
        return self._narrow(flags=lib.IO_WQ_WORK_UNCANCELLABLE)

    @property
    def unbounded(self) -> ExecutorView:
        """An executor whose works may block for ever, on a socket or a pipe, say.

        They have workers of their own (see ``unbounded`` of :class:`WorkQueue`), so that
        they never take one from the queue's other works.
        """
        return self._narrow(flags=lib.IO_WQ_WORK_UNBOUND)

    def on_node(self, node: int) -> ExecutorView:
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
        if hasattr(self, "_key"):
            raise TypeError("a chain has a key of its own, it can't be hashed or a chain already")
        return self._queue._new_chain(self)

    def _narrow(
        self,
        *,
        key: object = NO_KEY,
        flags: int = 0,
        node: int | None = None,
        seconds: float | None = None,
    ) -> ExecutorView:
        """Returns a view of this executor whose works have these properties, too."""
        raise NotImplementedError

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
        """Cancels the works of this executor, and of its views, pending or running."""
        raise NotImplementedError


class TimeLimit(Generic[T]):
    """A callable with a limit for each of its calls."""

    __slots__ = ("_fn", "_seconds")

    def __init__(self, seconds: float, fn: Callable[..., T]) -> None:
        check_callable("fn", fn)
        self._seconds = seconds
        self._fn = fn

    def __call__(self, /, *args: Any, **kwargs: Any) -> T:
        with time_limit(self._seconds):
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
