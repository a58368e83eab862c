"""The pool."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from celery.concurrency.base import BasePool
from celery.concurrency.prefork import _run_ready_callbacks  # type: ignore[attr-defined]
from celery.exceptions import WorkerTerminate
from celery.worker import state

from .._executor import registry
from .._executor.queue import WorkQueue
from .._native import lib
from .._report.topology import topology
from . import task_code
from .job import Callbacks, Job
from .limits import LOGGER, Limits, seconds_of
from .loop_calls import LoopCalls

if TYPE_CHECKING:
    from celery.app.base import Celery
    from kombu.asynchronous.hub import Hub

#: The header of a task's message that makes it run after those before it with an equal one.
KEY_HEADER = "iowq_key"
#: Seconds between two turns of what a worker's event loop does while the pool stops.
_TURN = 0.5


class TaskPool(BasePool):
    """Runs tasks on threads, and does with them what prefork does with processes.

    Made by Celery, which says what the parameters are. What doesn't apply, since there are no
    child processes, is ignored: ``max_tasks_per_child``, ``max_memory_per_child``.
    """

    body_can_be_buffer = True
    signal_safe = False

    def __init__(self, limit: int | None = None, *args: Any, **kwargs: Any) -> None:
        super().__init__(limit, *args, **kwargs)
        queue = WorkQueue(
            None if limit is None else max(limit, 1),
            name="celery",
            nodes=_largest_node(),
            interruptible=_packages_of_tasks(self.app),
        )
        self.limit: int = queue._concurrency
        self._queue = queue
        self._works = queue.uncancellable  # but for the tasks' own code
        self._jobs: set[Job] = set()
        self._loop = LoopCalls()
        self._is_cold = False  # its shutdown

    def register_with_event_loop(self, loop: Hub) -> None:
        """Has callbacks called by this loop from now on."""
        self._loop.hub = loop

    # ---- tasks

    def on_apply(  # type: ignore[override]
        self,
        target: Callable[..., Any],
        args: Any = (),
        kwargs: Any = None,
        callback: Callable[..., object] | None = None,
        accept_callback: Callable[..., object] | None = None,
        *,
        timeout_callback: Callable[..., object] | None = None,
        error_callback: Callable[..., object] | None = None,
        soft_timeout: float | None = None,
        timeout: float | None = None,
        **_: Any,
    ) -> Job:
        """Enqueues ``target(*args, **kwargs)``; returns what Celery terminates it by."""
        if self.app is not None and args:
            task_code.prepare(self.app, args[0])
        call = functools.partial(target, *args, **kwargs or {})
        callbacks = Callbacks(accept_callback, callback, error_callback, timeout_callback)
        limits = Limits(
            seconds_of(soft_timeout or self.options.get("soft_timeout")),
            seconds_of(timeout or self.options.get("timeout")),
        )
        job = Job(self._jobs, self._loop, call, callbacks, limits)
        self._enqueue(job, _key_of(args))
        return job

    def _enqueue(self, job: Job, key: str | None) -> None:
        try:
            if key is None:
                job.f = self._works.enqueue(job.run)
            else:
                job.f = self._works.enqueue_hashed(key, job.run)
        except BaseException:  # it is too late
            job.discard()
            raise

    def terminate_job(self, pid: Any, signal: Any = None) -> None:
        """Does nothing: who calls this calls the job's ``terminate`` next."""

    def flush(self) -> None:
        """Forgets what waits: after the loss of its connection the broker delivers it again."""
        lib.iowq_cancel_pending(self._queue._wq)
        for job in list(self._jobs):
            if job.f.cancelled():
                job.discard()

    # ---- its size

    def grow(self, n: int = 1) -> None:
        """Lets n more tasks run at once."""
        if n > 0:
            self._resize(self.limit + n)

    def shrink(self, n: int = 1) -> None:
        """Lets n fewer tasks run at once, but not fewer than one, or than run now.

        :raises ValueError: if that keeps it from going as far as n.
        """
        wanted, least = self.limit - max(n, 0), max(self._queue.stats().running, 1)
        if least < self.limit:
            self._resize(max(wanted, least))
        if wanted < least:
            raise ValueError(f"can't shrink the pool by {n}: {least} workers are busy")

    def _resize(self, limit: int) -> None:
        self._queue.max_workers(limit)
        self.limit = limit

    # ---- its end

    def on_stop(self) -> None:
        """Waits for the tasks that run. Those that don't yet are the broker's to deliver again.

        A cold shutdown's first call comes from a signal's handler, where nothing is waited for: the
        code that the signal came into may hold what tasks need. Another call will follow.
        """
        self._close()
        is_first = state.should_terminate and not self._is_cold
        self._is_cold = bool(state.should_terminate)
        if not is_first:
            self._wait_for_tasks()

    def on_terminate(self) -> None:
        """Ends the tasks that run, as a cold shutdown does."""
        self._close()
        self._wait_for_tasks(ends_them=True)

    def _close(self) -> None:
        self._queue.shutdown(wait=False)
        self.flush()

    def _wait_for_tasks(self, *, ends_them: bool = False) -> None:
        try:
            self._turn_loop()
            if ends_them:
                self._end_tasks()
            while not self._has_finished(_TURN):
                self._turn_loop()
                if state.should_terminate:
                    self._end_tasks()
            self._turn_loop()
        except WorkerTerminate:  # a hard shutdown: somebody has lost patience
            LOGGER.error("Tasks that can't be ended are left behind: %r", self._queue.workers())
            registry.forget(self._queue)
            raise

    def _end_tasks(self) -> None:
        for job in list(self._jobs):
            if not job.is_terminated():
                job.cancel(self)

    def _has_finished(self, seconds: float) -> bool:
        try:
            self._queue.flush(seconds)
        except TimeoutError:
            return False
        return True

    def _turn_loop(self) -> None:
        """Does what the loop would: it stands still while its thread waits for the pool's end."""
        self._loop.make()
        if self._loop.hub is not None:
            self._loop.hub.fire_timers()  # the connection's heartbeats
            _run_ready_callbacks(self._loop.hub)  # acknowledgements

    def _get_info(self) -> dict[str, Any]:
        info: dict[str, Any] = super()._get_info()  # type: ignore[misc]
        return {**info, "threads": self._queue.stats().workers}


def _largest_node() -> list[int] | None:
    """Each node would have its own limit, but Celery's is for the whole."""
    nodes = topology().nodes
    largest = max(nodes, key=lambda node: len(node.cpus))
    return None if len(nodes) == 1 or largest.id is None else [largest.id]


def _packages_of_tasks(app: Celery | None) -> set[str]:
    """What is the user's own, though it may be installed where libraries are."""
    tasks = app.tasks.values() if app is not None else ()
    return {type(task).__module__.partition(".")[0] for task in tasks} - {"celery"}


def _key_of(args: Any) -> str | None:
    """The task's key, from its message's headers: tasks of one key run in order."""
    headers = args[2] if len(args) > 2 else None
    key = headers.get(KEY_HEADER) if isinstance(headers, dict) else None
    return None if key is None else repr(key)  # JSON's lists aren't hashable
