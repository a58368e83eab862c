"""Questions that the scheduler asks workers."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distributed.scheduler import Scheduler


class Questions:
    """Questions on the streams on which workers get their tasks: after all that was sent before.

    (A call to the worker has a connection of its own, and may arrive before the task it is about.)
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._numbers = itertools.count()
        self._open: dict[int, tuple[str, Callable[[Any], object]]] = {}
        scheduler.stream_handlers["iowq-answer"] = self._answered

    def ask(self, worker: str, op: str, key: Any, then: Callable[[Any], object]) -> None:
        """Has ``then(answer)`` called; or ``then(None)``, when the worker is lost."""
        if worker not in self._scheduler.workers:
            then(None)
            return
        number = next(self._numbers)
        self._open[number] = worker, then
        self._scheduler.worker_send(worker, {"op": op, "key": key, "number": number})

    async def answer(self, worker: str, op: str, key: Any) -> Any:
        """Returns the answer, or None, when the worker is lost."""
        answered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.ask(worker, op, key, answered.set_result)
        return await answered

    def _answered(self, worker: str, number: int, answer: Any) -> None:
        _, then = self._open.pop(number, (worker, _ignore))
        then(answer)

    def lost(self, worker: str) -> None:
        """Answers what that worker hasn't."""
        for number, (asked, then) in list(self._open.items()):
            if asked == worker:
                del self._open[number]
                then(None)


def _ignore(_answer: Any) -> None:
    """To a question that is closed."""
