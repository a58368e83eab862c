"""A cluster as a queue: ``enqueue``, ``enqueue_hashed``, ``submit``, ``flush`` and ``cancel``."""

from __future__ import annotations

import asyncio
import functools
import itertools
import threading
import time
import uuid
from collections.abc import Callable, Hashable
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from dask.base import annotate
from dask.utils import funcname
from distributed import Client, Future

from .._arguments import check_callable, deadline_after
from .._native import lib
from .._work.work import Cancel
from . import names
from .scheduler import SchedulerPlugin
from .worker import WorkerPlugin

if TYPE_CHECKING:
    from typing_extensions import Self  # typing's own from 3.11 on

T = TypeVar("T")
_cancels = itertools.count()  # those of all queues of a client


def register(client: Client, **options: Any) -> Any:
    """Makes iowq the executor of a cluster's workers, and its scheduler the keeper of keys' order.

    For workers that come later, too; once is enough. With an asynchronous client, to be awaited.

    :param client: one of that cluster.
    :param options: of :class:`WorkerPlugin`.
    """
    return client.sync(_register, client, options)


async def _register(client: Client, options: dict[str, Any]) -> None:
    await client.register_plugin(SchedulerPlugin())
    await client.register_plugin(WorkerPlugin(**options))


class ClusterQueue:
    """A cluster's workers as one queue, with the verbs of :class:`WorkQueue`.

    A work is a :class:`distributed.Future`. Arguments may be futures, too: Dask waits for them,
    and hands over their results. As a context manager it waits for its works at the end.

    :param client: a client that isn't asynchronous.
    :param on_error: called as ``on_error(work, exception)`` for what an enqueued work raises, on
        a thread of Dask's; default: ``sys.unraisablehook``.
    """

    def __init__(
        self,
        client: Client,
        *,
        on_error: Callable[[Future[Any], BaseException], object] | None = None,
    ) -> None:
        if client.asynchronous:
            raise TypeError(f"client must not be asynchronous: {client!r}")
        if on_error is not None:
            check_callable("on_error", on_error)
        self._client = client
        self._on_error = on_error
        self._works: dict[Hashable, Future[Any]] = {}  # that haven't finished, by their tasks' keys
        self._ending: dict[Hashable, str] = {}  # cancelled while they ran, and where
        self._finished = threading.Condition()
        register(client)

    # ---- works

    def enqueue(self, fn: Callable[..., object], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Has a worker call ``fn(*args, **kwargs)``. What it returns isn't kept."""
        return self._enqueue({}, _dropping, fn, args, kwargs, self._on_error or _report)

    def enqueue_hashed(
        self, key: Hashable, fn: Callable[..., object], /, *args: Any, **kwargs: Any
    ) -> Future[Any]:
        """The same; works of one key run on one worker, one at a time, in order."""
        hash(key)
        annotations = {names.KEY: functools.partial(_constant, key)}  # Dask calls what it can
        return self._enqueue(annotations, _dropping, fn, args, kwargs, self._on_error or _report)

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """The same as :meth:`enqueue`, with a future that has a result."""
        return self._enqueue({}, _keeping, fn, args, kwargs, None)

    def _enqueue(
        self,
        annotations: dict[str, Any],
        call: Callable[..., Any],
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        on_error: Callable[[Future[Any], BaseException], object] | None,
    ) -> Future[Any]:
        check_callable("fn", fn)
        name = f"{funcname(fn)}-{uuid.uuid4()}"
        with annotate(**annotations):
            work = self._client.submit(call, fn, list(args), kwargs, key=name)
        with self._finished:
            self._works[name] = work
        work.add_done_callback(functools.partial(self._done, on_error))
        return work

    def _done(
        self, on_error: Callable[[Future[Any], BaseException], object] | None, work: Future[Any]
    ) -> None:
        """Called by a thread of Dask's."""
        try:
            if work.status == "error" and on_error is not None:
                error = work.exception()
                on_error(work, error)
        finally:
            with self._finished:
                self._works.pop(work.key, None)
                self._finished.notify_all()

    # ---- flush, cancel

    def flush(self, timeout: float | None = None) -> None:
        """Waits until all works enqueued here before this call have finished.

        :param timeout: seconds; None: no limit.
        :raises TimeoutError: when that time is up.
        """
        deadline = deadline_after(timeout)
        with self._finished:
            works = set(self._works)
            if not self._finished.wait_for(
                lambda: works.isdisjoint(self._works), _remaining(deadline)
            ):
                raise TimeoutError("the queue's works have not finished in time")
        for key, worker in list(self._ending.items()):
            self._call(_remaining(deadline), "iowq_when_over", key=key, worker=worker)
            self._ending.pop(key, None)

    def cancel(self, work: Future[Any]) -> Cancel:
        """Cancels a work, for all clients that want it: see :class:`Cancel`."""
        if not isinstance(work, Future):
            raise TypeError(f"work must be a Future, not {type(work).__name__}: {work!r}")
        with self._finished:
            if self._works.get(work.key) is not work:
                return Cancel.NOTFOUND
        number = next(_cancels)
        client = self._client.id
        self._client._send_to_scheduler({"op": "iowq-cancel", "key": work.key, "number": number})
        found, worker = self._call(None, "iowq_cancelled", client=client, number=number)
        if found == Cancel.RUNNING:
            self._ending[work.key] = worker
        return Cancel(found)

    def _call(self, timeout: float | None, name: str, **arguments: Any) -> Any:
        """Calls the scheduler."""
        call = getattr(self._client.scheduler, name)
        try:
            return self._client.sync(call, callback_timeout=timeout, **arguments)
        except asyncio.TimeoutError as error:  # another one in 3.10
            raise TimeoutError("the queue's works have not finished in time") from error

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
            self._client.cancel(list(self._works.values()), force=True)
        self.flush()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} on {self._client!r}>"


def submit(client: Client, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
    """Has a worker of the cluster call ``fn(*args, **kwargs)``; returns its future.

    As :func:`iowq.aio.submit`, whose works run here. Unlike ``client.submit`` it passes on all
    arguments to fn, and calls fn each time.
    """
    check_callable("fn", fn)
    name = f"{funcname(fn)}-{uuid.uuid4()}"
    return client.submit(_keeping, fn, list(args), kwargs, key=name)


def _keeping(fn: Callable[..., T], args: list[Any], kwargs: dict[str, Any]) -> T:
    return fn(*args, **kwargs)


def _dropping(fn: Callable[..., object], args: list[Any], kwargs: dict[str, Any]) -> None:
    fn(*args, **kwargs)


def _constant(key: Hashable, _task: Hashable) -> Hashable:
    return key


def _report(work: Future[Any], error: BaseException) -> None:
    lib.iowq_report(id(error), id(work))


def _remaining(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())
