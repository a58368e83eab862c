"""What is known of a process after each look: counts, and how they have changed since the last."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .errors import NoPageError
from .page import CANCELLING, SHIELDED, UNBOUND, WAITING, WORKING, QueueSeen, Snapshot, WorkerSeen

if TYPE_CHECKING:
    from .process import Process

ANSWER_SECONDS = 2.0


@dataclass(frozen=True)
class Look:
    """One look at a process."""

    snapshot: Snapshot | None
    """None: there are no workers, or no answer."""
    note: str | None = None
    """Why not."""
    rates: dict[int, dict[str, float]] = field(default_factory=dict)
    """Per second, by the queue's id: started and finished. Empty before the second look."""

    def queues(self) -> tuple[QueueSeen, ...]:
        """Returns the queues, those with the most to do first."""
        queues = self.snapshot.queues if self.snapshot else ()
        return tuple(
            sorted(queues, key=lambda queue: -queue.counts["pending"] - queue.counts["running"])
        )

    def workers(self) -> tuple[WorkerSeen, ...]:
        """Returns the workers: those that run the longest first, the idle last."""
        workers = self.snapshot.workers if self.snapshot else ()
        return tuple(sorted(workers, key=lambda w: (not w.flags & WORKING, w.started or 1e18)))

    def seconds(self, worker: WorkerSeen) -> float | None:
        """How long it has run its work; None: not known."""
        if self.snapshot is None or worker.started is None:
            return None
        return max(0.0, self.snapshot.taken - worker.started)

    def longest_keys(self) -> list[tuple[QueueSeen, str, int]]:
        """Returns the keys that the most works have, of all queues."""
        keys = [(queue, *key) for queue in self.queues() for key in queue.longest_keys]
        return sorted(keys, key=lambda key: -key[2])


def state_of(worker: WorkerSeen) -> str:
    """What a worker does, in a word or two."""
    if not worker.flags & WORKING:
        return "idle"
    if worker.flags & CANCELLING:
        return "to be ended"
    return "waits" if worker.blocked_in or worker.flags & WAITING else "runs"


def is_shielded(worker: WorkerSeen) -> bool:
    """Whether nothing interrupts its work."""
    return bool(worker.flags & SHIELDED)


def is_unbounded(worker: WorkerSeen) -> bool:
    """Whether it is one for unbounded work."""
    return bool(worker.flags & UNBOUND)


def _rates(before: Snapshot, after: Snapshot) -> dict[int, dict[str, float]]:
    former = {queue.id: queue for queue in before.queues}
    seconds = after.taken - before.taken
    return {
        queue.id: {
            name: (queue.counts[name] - former[queue.id].counts[name]) / seconds
            for name in ("enqueued", "started", "finished", "failed", "cancelled")
        }
        for queue in after.queues
        if queue.id in former and seconds > 0
    }


def _ask(process: Process) -> Snapshot | None:
    """One answer; None: there is none in time."""
    try:
        return process.page().look(ANSWER_SECONDS)
    except NoPageError:
        process.forget_page()
        process.check_alive()
    return process.page().look(ANSWER_SECONDS)  # the last one's successor, if it has one


def looks(process: Process) -> Iterator[Look]:
    """Yields a look whenever it is asked for one.

    :raises WatchError: the process has ended.
    """
    former: Snapshot | None = None
    while True:
        try:
            snapshot = _ask(process)
        except NoPageError:
            yield Look(None, "no queue of it has a worker: none has had work, or all are closed")
            continue
        process.check_alive()
        if snapshot is None:
            yield Look(None, f"it does not answer: it is {process.state() or 'too busy'}")
            continue
        yield Look(snapshot, rates=_rates(former, snapshot) if former else {})
        former = snapshot
