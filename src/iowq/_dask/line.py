"""The tasks of one key, in order: the scheduler lets the first go, and keeps the others back."""

from __future__ import annotations

import heapq
from collections.abc import Hashable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distributed.scheduler import Scheduler, TaskState

#: The worker that tasks wait for which are kept back.
_NOBODY = "tcp://iowq-keeps-this-back:0"
OVER = ("memory", "erred", "released", "forgotten")


class Place:
    """A task's place in the line of its key.

    :param number: the task's, in the order in which they came.
    """

    def __init__(self, number: int, task: TaskState, key: Hashable) -> None:
        self.task = task
        self.key = key
        self.listed = False
        """Whether its line has it, be it only to find that it is over."""
        self.worker: str | None = None
        """On which it runs."""
        self._number = number
        self._workers = task.worker_restrictions  # that its owner wants
        self._hosts = task.host_restrictions
        self._loose = task.loose_restrictions

    def __lt__(self, other: Place) -> bool:
        return self._number < other._number

    def is_over(self) -> bool:
        """Whether the task has come to an end, or nobody wants it."""
        return self.task.state in OVER

    def keep_back(self) -> None:
        """Keeps the task from running."""
        self._restrict(_NOBODY)

    def let_go(self, scheduler: Scheduler) -> None:
        """Restricts it to the key's worker; or as its owner does, if there is none for it yet."""
        task = self.task
        task.worker_restrictions, task.host_restrictions = self._workers, self._hosts
        task.loose_restrictions = self._loose
        workers = scheduler.valid_workers(task)
        if workers is None or (self._loose and not workers):
            workers = scheduler.running
        if workers:
            chosen = max(workers, key=lambda worker: hash((worker.address, self.key)))
            self._restrict(chosen.address)

    def has_worker(self, scheduler: Scheduler) -> bool:
        """Whether the worker that it was let go to is there."""
        return any(worker in scheduler.workers for worker in self.task.worker_restrictions or ())

    def _restrict(self, worker: str) -> None:
        self.task.worker_restrictions = {worker}
        self.task.host_restrictions = None
        self.task.loose_restrictions = False


class Line:
    """The tasks of one key, in order."""

    def __init__(self) -> None:
        self.places: list[Place] = []
        """A heap. A place that is over is dropped when it comes to be the first."""
        self.first: Place | None = None
        """The one that was let go."""
        self.unanswered = 0
        """Runs of which it isn't known whether they are over."""

    def enlist(self, place: Place) -> None:
        """Gives a place to a task, or gives it back."""
        if not place.listed:
            place.listed = True
            heapq.heappush(self.places, place)

    def advance(self, scheduler: Scheduler) -> TaskState | None:
        """Returns the task that is the first now, unless it is known to be."""
        first = self.first
        if self.unanswered or (first is not None and first.task.state == "processing"):
            return None
        while self.places and self.places[0].is_over():
            heapq.heappop(self.places).listed = False
        new = self.places[0] if self.places else None
        if first is not None and first is new and first.has_worker(scheduler):
            return None
        if first is not None:
            first.keep_back()  # over; or the result of an earlier one is lost, and comes first
        self.first = new
        if new is None:
            return None
        new.let_go(scheduler)
        return new.task
