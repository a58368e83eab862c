"""The queue as CPython's tests get it, in their child processes as well."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import iowq
from support import wait_until


class Thread(NamedTuple):
    """A worker, as tests look at ThreadPoolExecutor's threads."""

    number: int
    name: str

    def join(self) -> None:
        wait_until(lambda: not Path(f"/proc/self/task/{self.number}").exists())


class WorkQueue(iowq.WorkQueue):
    """A queue with what the tests use of ThreadPoolExecutor's private parts.

    Its threads are there when submit() returns; the queue's own come in a moment.
    """

    made: ClassVar[int] = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        WorkQueue.made += 1

    @property
    def _threads(self) -> list[Thread]:  # type: ignore[override]
        wait_until(lambda: not self.stats().pending or self.stats().workers == self._max_workers)
        wait_until(lambda: len(self.workers()) == self.stats().workers)  # and all have begun
        wait_until(lambda: {worker.thread for worker in self.workers()} <= _names().keys())
        names = _names()
        return [Thread(worker.thread, names[worker.thread]) for worker in self.workers()]

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        if cancel_futures:
            wait_until(lambda: not self.stats().pending or self.stats().running)
        super().shutdown(wait, cancel_futures=cancel_futures)


def _names() -> dict[int | None, str]:
    return {thread.native_id: thread.name for thread in threading.enumerate()}
