"""Clients' ``ClusterQueue.cancel``: what the scheduler does for it, and answers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from .._work.work import Cancel
from .line import OVER

if TYPE_CHECKING:
    from distributed.scheduler import Scheduler

    from .questions import Questions


class Cancels:
    """Each comes by its client's stream, as the task has; a call might overtake the task.

    A stream has no answers, so the client calls for the answer, by its own number.
    """

    def __init__(self, scheduler: Scheduler, questions: Questions) -> None:
        self._scheduler = scheduler
        self._questions = questions
        self._answers: dict[tuple[str, int], asyncio.Future[tuple[int, str | None]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        scheduler.stream_handlers["iowq-cancel"] = self._start
        scheduler.handlers["iowq_cancelled"] = self._answer
        scheduler.handlers["iowq_when_over"] = self._when_over

    def _start(self, client: str, key: Any, number: int) -> None:
        task = asyncio.ensure_future(self._cancel(client, key, number))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _cancel(self, client: str, key: Any, number: int) -> None:
        """Cancels a task for all who want it."""
        found, worker = await self._find(key)
        task = self._scheduler.tasks.get(key)
        if found != Cancel.NOTFOUND and task is not None and task.who_wants:
            reason = "iowq.dask.ClusterQueue.cancel"
            self._scheduler.stimulus_cancel([key], client, force=True, reason=reason, msg="")
        answer = self._answer_to(client, number)
        if not answer.done():  # by a client that has gone
            answer.set_result((int(found), worker))

    async def _find(self, key: Any) -> tuple[Cancel, str | None]:
        """Ends the task where it runs, if it does; returns what it did, and where it runs."""
        while True:
            task = self._scheduler.tasks.get(key)
            if task is None or task.state in OVER:
                return Cancel.NOTFOUND, None
            if task.processing_on is None:
                return Cancel.OK, None
            worker = task.processing_on.address
            found = await self._questions.answer(worker, "iowq-cancel", key)
            if found is not None:  # else that worker is lost, and the task elsewhere
                return Cancel(found), worker

    def _answer_to(self, client: str, number: int) -> asyncio.Future[tuple[int, str | None]]:
        loop = asyncio.get_running_loop()
        return self._answers.setdefault((client, number), loop.create_future())

    async def _answer(self, client: str, number: int) -> tuple[int, str | None]:
        answer = await self._answer_to(client, number)
        del self._answers[client, number]
        return answer

    async def _when_over(self, key: Any, worker: str) -> None:
        """Returns when no run of the task goes on there."""
        await self._questions.answer(worker, "iowq-when-over", key)

    def lost(self, client: str) -> None:
        """Forgets a client's."""
        for asked in [asked for asked in self._answers if asked[0] == client]:
            self._answers.pop(asked).cancel()
