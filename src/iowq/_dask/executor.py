"""The executor that a Dask worker runs its tasks in."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Callable
from typing import Any

from distributed.threadpoolexecutor import thread_state

from .._executor.loop_futures import make_loop_work
from .._executor.queue import WorkQueue
from .._native import ffi, lib


class ThreadPoolExecutor(WorkQueue):
    """A queue for ``Worker(executor=...)``: its works are a Dask worker's tasks.

    Only a task's own code may be interrupted in them, not Dask's around it. (Dask gives a task
    its worker and its client only in an executor with this name.)

    :param concurrency: the worker's threads.
    :param options: those of :class:`WorkQueue`, but for an initializer.
    """

    def __init__(self, concurrency: int | None = None, name: str = "iowq-dask", **options: Any):
        seceded = _Members(weakref.proxy(self))
        super().__init__(concurrency, name, _join, (seceded,), **options)
        self._flags |= lib.IO_WQ_WORK_UNCANCELLABLE  # as a whole: see Run

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """As that of the queue; on an event loop with a future of the loop's own, which is cheaper.

        ``loop.run_in_executor`` takes both.
        """
        loop = asyncio._get_running_loop()
        if loop is None:
            return super().submit(fn, *args, **kwargs)
        work = make_loop_work(loop, self, fn, args, kwargs)
        error = self._offer(work)
        if error:
            self._not_taken(work, error)
        return work.future


class _Members:
    """What ``distributed.secede()`` and ``rejoin()`` find in place of Dask's own executor.

    A thread that has seceded doesn't count against the concurrency, as if it waited for another
    work, until it rejoins or its task ends. To rejoin it doesn't wait for another one to leave.
    """

    def __init__(self, executor: WorkQueue) -> None:
        self._executor = executor
        self._rejoin_lock = threading.Lock()

    @property
    def _threads(self) -> _Members:
        return self

    @property
    def _rejoin_list(self) -> _Members:
        return self

    def remove(self, _thread: threading.Thread) -> None:
        """The calling thread secedes."""
        if _has_seceded():
            raise KeyError("this task has seceded already")
        thread_state.iowq_seceded = lib.iowq_serial()
        lib.io_wq_worker_await(self._executor._wq, ffi.NULL)

    def append(self, entry: tuple[threading.Thread, threading.Event]) -> None:
        """The calling thread rejoins."""
        if _has_seceded():
            lib.io_wq_worker_await_end()
        thread_state.iowq_seceded = 0
        entry[1].set()

    def submit(self, _nothing: object) -> None:
        """Dask's own executor is woken so, to let a thread rejoin."""

    def _adjust_thread_count(self) -> None:
        """Workers come by themselves."""


def _has_seceded() -> bool:
    return bool(thread_state.iowq_seceded == lib.iowq_serial())


def _join(members: _Members) -> None:
    """Each of the executor's threads begins so."""
    thread_state.executor = members
    thread_state.proceed = True
    thread_state.iowq_seceded = 0
