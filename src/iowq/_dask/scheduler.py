"""What runs in the scheduler: the order of a key's tasks.

``annotate(iowq_key=...)`` promises: the tasks of one key go to one worker, one at a time, in the
order in which they came to the scheduler; also if they fail, are cancelled, or the worker dies.

How others could have done it, and why they don't:

- *A chain of dependencies*: each task depends on the previous one of its key. Dask takes a
  dependency for data: it fails what depends on a failed task, cancels what depends on a
  cancelled one, doesn't stop a cancelled one on which others still depend, and keeps its result
  until they have run. To undo these four each task would have to be two, of which the first
  never fails and can't be cancelled.
- *The worker's own keyed queue* (``WorkQueue.hashed``): the worker gets a key's tasks
  in the order of their priorities, newest first if these are equal, and not before their
  dependencies are done. And a task that waits for its key there takes a thread's place.
- *Restricting the tasks to one worker* keeps no order, for the same reason, and dies with that
  worker.

So the scheduler keeps them back. It knows the order, since it takes a client's messages one after
the other, and is the one that knows of all ends. A task may be restricted to some workers,
and waits as ``no-worker`` while there is none of these. A task that isn't the first of its *line*
is restricted to a worker that doesn't exist. When it comes to be the first, it is restricted to
the key's worker. A line goes on only when the last run is known to be over:

- it returned or raised: the worker says so, after the run;
- it was cancelled: Dask forgets it at once, while it may still clean up. So the worker is asked
  to say when it is over (``iowq-when-over``, sent after Dask's own message on the same stream);
- its worker is lost: a process that has died runs nothing, since the kernel closes its
  connections after it has ended its threads. The task itself comes back, and is first again.

The key's worker is the one with the highest hash of both (rendezvous hashing): a worker that
leaves or comes moves only its own keys, and only between two of their tasks.

**Nothing is run twice out of order.** A run whose worker dies before it has said that it
is done runs again, before any later one. What is done never runs again, though Dask computes lost
results anew: the worker sends a keyed task's result, pickled, in the message that says that it
is done, and the scheduler makes that the task's recipe. A result that is lost is then unpickled
somewhere, not computed. So nothing is lost either.

What it costs: between two tasks of a key a message goes to the scheduler and one back, as with a
dependency (``benchmarks/dask_worker.py``); different keys don't wait for each other. The results
of keyed tasks lie in the scheduler's memory, too, for as long as somebody wants them.

What it doesn't promise: a worker that the scheduler has given up, but that isn't dead, ends what it
runs when it learns of it: at once, if it is closed or retired; when it is cut off from the network,
when its own connection times out (``distributed.comm.timeouts.tcp``). Until then, and while the run
cleans up, another worker may run the task again.

All of this is called by the scheduler's event loop.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

import distributed
from dask._task_spec import Task
from distributed.protocol import pickle

from . import names
from .cancels import Cancels
from .line import Line, Place
from .questions import Questions
from .refusal import refusal

if TYPE_CHECKING:
    from distributed.scheduler import Scheduler, TaskState


class SchedulerPlugin(distributed.SchedulerPlugin):
    """Keeps the order of tasks that have a key: ``dask.annotate(iowq_key=...)``.

    ``client.register_plugin(iowq.dask.SchedulerPlugin())``, or :func:`iowq.dask.register`.
    Tasks that the scheduler has already are not its concern.
    """

    name = "iowq"
    idempotent = True

    async def start(self, scheduler: Scheduler) -> None:
        """Called by the scheduler that gets the plugin."""
        self._scheduler = scheduler
        self._questions = Questions(scheduler)
        self._numbers = itertools.count()
        self._places: dict[Hashable, Place] = {}  # by the tasks' keys
        self._lines: dict[Hashable, Line] = {}  # by the keys' own
        self._touched: set[Hashable] = set()
        self._released: list[tuple[Place, str]] = []
        self._cancels = Cancels(scheduler, self._questions)

    # ---- steps of tasks

    def update_graph(
        self,
        scheduler: Scheduler,
        *,
        annotations: dict[str, dict[Any, Any]],
        priority: dict[Any, Any],
        **_kwargs: Any,
    ) -> None:
        """Called for new tasks, before their first step."""
        keys = annotations.get(names.KEY, {})
        new = [scheduler.tasks[key] for key in keys if key not in self._places]
        for task in sorted(new, key=lambda task: priority[task.key][-1]):  # as Dask orders a graph
            self._take(task, keys[task.key])

    def _take(self, task: TaskState, key: Any) -> None:
        task.annotations = {**(task.annotations or {}), names.KEYED: True}
        del task.annotations[names.KEY]  # it may be something that messages can't carry
        reason = _why_not(task, key)
        if reason is not None:
            task.run_spec = refusal(task.key, reason)
            return
        place = self._places[task.key] = Place(next(self._numbers), task, key)
        place.keep_back()
        self._enlist(place)

    def transition(self, key: Any, start: str, finish: str, *_args: Any, **_kwargs: Any) -> None:
        """Called by the scheduler after each step of a task."""
        place = self._places.get(key)
        if place is None:
            return
        if finish == "processing":
            running_on = place.task.processing_on
            place.worker = running_on.address if running_on else None
            return
        if finish == "waiting":
            self._enlist(place)  # anew, if it was over
        elif finish == "memory":
            _keep_result(place.task)
        elif finish == "forgotten":
            del self._places[key]
        if start == "processing" and finish == "released" and place.worker is not None:
            self._released.append((place, place.worker))
        self._touch(place.key)

    def remove_worker(self, scheduler: Scheduler, worker: str, **_kwargs: Any) -> None:  # noqa: ARG002
        """Called when a worker has left, for whatever reason: its runs are over."""
        self._questions.lost(worker)
        for key in self._lines:
            self._touch(key)

    def remove_client(self, scheduler: Scheduler, client: str) -> None:  # noqa: ARG002
        """Called when a client has left."""
        self._cancels.lost(client)

    # ---- lines

    def _enlist(self, place: Place) -> None:
        self._lines.setdefault(place.key, Line()).enlist(place)
        self._touch(place.key)

    def _touch(self, key: Hashable) -> None:
        """Sees to it that a line goes on, once the scheduler has done what it is doing."""
        if not self._touched:
            asyncio.get_running_loop().call_soon(self._advance)
        self._touched.add(key)

    def _advance(self) -> None:
        released, self._released = self._released, []
        for place, worker in released:
            self._ask_when_over(place, worker)
        touched, self._touched = self._touched, set()
        runnable = {}
        for key in touched:
            line = self._lines.get(key, Line())
            task = line.advance(self._scheduler)
            if task is not None and task.state == "no-worker":
                runnable[task.key] = "processing"
            if not line.places and not line.unanswered:
                self._lines.pop(key, None)
        if runnable:
            self._scheduler.transitions(runnable, f"iowq-advance-{time.time()}")  # type: ignore[arg-type]

    def _ask_when_over(self, place: Place, worker: str) -> None:
        line = self._lines.setdefault(place.key, Line())

        def over(_answer: Any) -> None:
            line.unanswered -= 1
            self._touch(place.key)

        line.unanswered += 1
        self._questions.ask(worker, "iowq-when-over", place.task.key, over)


def _why_not(task: TaskState, key: Any) -> str | None:
    """Returns why that task can't have that key."""
    if task.actor:
        return f"an actor can't have an {names.KEY}"
    try:
        hash(key)
    except TypeError as error:
        return f"an {names.KEY} must be hashable, not {key!r}: {error}"
    return None


def _keep_result(task: TaskState) -> None:
    """Makes a task's result its recipe, so that it never runs again."""
    result = (task.metadata or {}).pop(names.RESULT, None)
    if result is not None:
        task.run_spec = Task(task.key, pickle.loads, result)
