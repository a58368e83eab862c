"""Which counts are reported, and of which queues."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

from .._executor.queue import WorkQueue
from .._executor.registry import queues
from .._report.stats import seconds_of

if TYPE_CHECKING:
    from .._report.stats import Stats

#: A queue's name and a node's number.
Place = tuple[str, str]


class Count(NamedTuple):
    """One of what :class:`Stats` has."""

    name: str
    about: str
    unit: str = "work"


COUNTERS = (
    Count("enqueued", "Works enqueued."),
    Count("started", "Works started."),
    Count("finished", "Works whose callable has returned or raised."),
    Count("failed", "Works whose callable has raised."),
    Count("cancelled", "Works that cancel kept from starting, or ended."),
    Count("created", "Threads created.", "thread"),
    Count("retired", "Threads that have ended.", "thread"),
)
LEVELS = (
    Count("pending", "Works not started yet, those that wait for their key included."),
    Count("running", "Works started and not finished."),
    Count("blocked", "Running works that wait for something, as they said, or as it seems."),
    Count("workers", "Threads alive.", "thread"),
    Count("idle", "Threads that wait for work.", "thread"),
)
LONGEST = Count("longest", "The most works that were ever pending.")
WAITS = Count("waits", "How long works were pending; one work in 32 is counted.")
#: Seconds: a work that is counted in waits[i] was pending for less than BOUNDS[i].
BOUNDS = [seconds_of(bucket) for bucket in range(32)]


class Snapshot:
    """The counts of some queues. Those of one name are added up."""

    def __init__(self, queues: list[WorkQueue]) -> None:
        self._stats = [(queue.name, queue.stats()) for queue in queues]

    def _sum(self, value: Callable[[Stats], int]) -> dict[Place, int]:
        sums: dict[Place, int] = {}
        for name, total in self._stats:
            for node, counts in total.nodes.items():
                place = name, "" if node is None else str(node)
                sums[place] = sums.get(place, 0) + value(counts)
        return sums

    def count(self, name: str) -> dict[Place, int]:
        """Returns one of the counts, for each queue and node."""
        return self._sum(lambda stats: getattr(stats, name))

    def longest(self) -> dict[str, int]:
        """Returns the most that were ever pending, for each queue."""
        longest: dict[str, int] = {}
        for name, total in self._stats:
            longest[name] = max(longest.get(name, 0), total.longest)
        return longest

    def _bucket(self, index: int) -> dict[Place, int]:
        return self._sum(lambda stats: stats.waits[index])

    def waits(self) -> dict[Place, list[int]]:
        """Returns how many works were pending for less than each of BOUNDS."""
        counts = [self._bucket(index) for index in range(len(BOUNDS))]
        return {place: list(accumulate(count[place] for count in counts)) for place in counts[0]}


class Reported:
    """The queues that are reported: some, or all of the process. It keeps none alive."""

    def __init__(self, wq: WorkQueue | None) -> None:
        self._all = False
        self._some: weakref.WeakSet[WorkQueue] = weakref.WeakSet()
        self.add(wq)

    def add(self, wq: WorkQueue | None) -> None:
        """Has one more reported; None: all."""
        if wq is None:
            self._all = True
        elif isinstance(wq, WorkQueue):
            self._some.add(wq)
        else:
            raise TypeError(f"wq must be a WorkQueue or None, not {type(wq).__name__}: {wq!r}")

    def snapshot(self) -> Snapshot:
        """Returns the counts of those that are open now."""
        found = queues() if self._all else list(self._some)
        return Snapshot([queue for queue in found if not queue._closed])
