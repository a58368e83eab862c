"""What runs on each worker of the cluster: its tasks' executor, and their end.

Dask's worker is told by its scheduler that nobody needs a task any more (its future was
cancelled, or the last one to it released; the scheduler has given the task to another worker).
It forgets the task then, unless the task runs: "We can't stop executing a task just because the
scheduler asked us to, so we're entering cancelled state and waiting until it completes".
That is the moment at which this plugin ends the run. A ``WorkerPlugin`` hears of each
step of a task (``transition``):

- from ``ready`` to ``executing``: the recipe (``run_spec``) is about to be handed to the
  executor. A :class:`Run` takes its place, which calls it;
- from ``executing`` or ``long-running`` to ``released``: the run is ended.

All of this is called by the worker's event loop.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import distributed
from distributed.protocol import pickle
from distributed.worker_state_machine import FreeKeysEvent

from .._work.work import Cancel
from . import names
from .executor import ThreadPoolExecutor
from .refusal import refusal
from .run import Run

if TYPE_CHECKING:
    from distributed.worker_state_machine import TaskState

LOGGER = logging.getLogger("distributed.worker.iowq")
_RUNNING = ("executing", "long-running")


class WorkerPlugin(distributed.WorkerPlugin):
    """Has a worker's tasks run by iowq, so that they end when they are cancelled.

    ``client.register_plugin(iowq.dask.WorkerPlugin())``, or :func:`iowq.dask.register`.

    :param options: of each worker's :class:`ThreadPoolExecutor`, if the worker doesn't have one
        already. Its concurrency is the worker's ``nthreads``.
    """

    name = "iowq"
    idempotent = True

    def __init__(self, **options: Any) -> None:
        self._options = options
        self._runs: dict[Any, Run] = {}

    def setup(self, worker: distributed.Worker) -> None:
        """Takes the place of the worker's own executor."""
        self._worker = worker
        self._own: Any = worker.executors["default"]
        if not isinstance(self._own, ThreadPoolExecutor):
            executor = ThreadPoolExecutor(worker.state.nthreads, **self._options)
            worker.executors["default"] = executor
        worker.stream_handlers["iowq-cancel"] = self._cancel
        worker.stream_handlers["iowq-when-over"] = self._when_over

    def teardown(self, worker: distributed.Worker) -> None:
        """Ends what runs, if the worker is closed; or leaves it be, if the plugin is removed."""
        closing = worker.status not in distributed.worker.WORKER_ANY_RUNNING
        if closing:
            for run in list(self._runs.values()):
                run.cancel()
        if worker.executors["default"] is not self._own:
            executor, worker.executors["default"] = worker.executors["default"], self._own
            executor.shutdown(wait=False)

    # ---- steps of tasks

    def transition(self, key: Any, start: str, finish: str, **_kwargs: Any) -> None:
        """Called by the worker after each step of a task."""
        if finish == "executing":
            self._begin(key)
            return
        run = self._runs.get(key)
        if run is None:
            return
        task = self._worker.state.tasks.get(key)
        if task is None or not self._is_running(task):
            del self._runs[key]
            if task is not None:
                _clear(task, run)
            for call in run.ended:
                call()
        elif start in _RUNNING and finish == "released":
            run.cancel()

    def _begin(self, key: Any) -> None:
        task = self._worker.state.tasks[key]
        spec: Any = task.run_spec
        if isinstance(spec, Run):
            spec = spec.spec
        annotations = task.annotations or {}
        executor = self._worker.executors.get(annotations.get("executor", "default"))
        ours = executor if isinstance(executor, ThreadPoolExecutor) else None
        limit = annotations.get("timeout")
        if names.KEY in annotations:
            task.run_spec = refusal(key, f"{names.KEY} needs iowq.dask.SchedulerPlugin")
        elif ours is not None or spec.is_coro:
            keep = _keeper(key, task.metadata) if annotations.get(names.KEYED) else _forget
            self._runs[key] = run = Run(spec, ours, limit, keep)
            task.run_spec = run  # type: ignore[assignment]
        elif limit is not None:
            task.run_spec = refusal(key, f"timeout needs an executor of iowq's, not {executor!r}")
        else:
            task.run_spec = spec

    def _is_running(self, task: TaskState) -> bool:
        state = self._worker.state
        return task in state.executing or task in state.long_running

    # ---- asked by the scheduler

    def _cancel(self, key: Any, number: int) -> None:
        """Ends a task's run, or keeps it from running; answers with a :class:`Cancel`."""
        task = self._worker.state.tasks.get(key)
        run = self._runs.get(key)
        if task is None or task.state in ("memory", "error"):
            answer = Cancel.NOTFOUND
        elif run.cancel() if run is not None else task.state in _RUNNING:
            answer = Cancel.RUNNING
        else:
            answer = Cancel.OK
        if answer != Cancel.NOTFOUND:
            self._worker.handle_stimulus(FreeKeysEvent(keys=[key], stimulus_id="iowq-cancel"))
        self._answer(number, int(answer))

    def _when_over(self, key: Any, number: int) -> None:
        """Answers when no run of the task goes on here."""
        run = self._runs.get(key)
        if run is None:
            self._answer(number, None)
        else:
            run.ended.append(lambda: self._answer(number, None))

    def _answer(self, number: int, answer: int | None) -> None:
        self._worker.batched_send({"op": "iowq-answer", "number": number, "answer": answer})


def _keeper(key: Any, metadata: dict[str, Any]) -> Callable[[Any], None]:
    """Sends the scheduler what a keyed task returns, in the message that tells of its end."""

    def keep(result: Any) -> None:
        try:
            metadata[names.RESULT] = pickle.dumps(result)
        except Exception:
            LOGGER.warning("the result of %r is on this worker alone", key, exc_info=True)

    return keep


def _clear(task: TaskState, run: Run) -> None:
    """What the run has left; the message about it, which has yet to be sent, is as it was."""
    recipe: object = task.run_spec
    if recipe is run:
        task.run_spec = run.spec
    task.metadata = {name: value for name, value in task.metadata.items() if name != names.RESULT}


def _forget(_result: Any) -> None:
    """A result that the scheduler doesn't need."""
