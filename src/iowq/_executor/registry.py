"""All queues that are alive, by the numbers that their threads know them by."""

from __future__ import annotations

import itertools
import time
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .queue import WorkQueue

#: No later import of this package, which the threads of this one's queues would take
#: for it, begins with numbers that this one has got to.
_tokens = itertools.count(time.monotonic_ns())
_queues: weakref.WeakValueDictionary[int, WorkQueue] = weakref.WeakValueDictionary()


def new_token() -> int:
    """Returns a number that no queue has had.

    A thread can start after the last work that needed it, and its queue, are
    gone, so it gets a number and not the queue's address.
    """
    return next(_tokens)


def register(queue: WorkQueue, token: int) -> None:
    """Has a queue found from now on, for as long as somebody else keeps it."""
    _queues[token] = queue


def find(token: int) -> WorkQueue | None:
    """Returns the queue that has this number, if it is alive."""
    return _queues.get(token)


def forget(queue: WorkQueue) -> None:
    """Has the exit of the process not wait for a queue whose works can't be ended."""
    for token, known in list(_queues.items()):
        if known is queue:
            del _queues[token]


def queues() -> list[WorkQueue]:
    """Returns the queues that are alive, each once: in a forked child they get new numbers."""
    # to iterate over the values would fail if others come meanwhile
    alive = [queue for ref in _queues.valuerefs() if (queue := ref()) is not None]
    return list({id(queue): queue for queue in alive}.values())
