"""A look as tables of texts, for views to draw."""

from __future__ import annotations

from typing import NamedTuple

from .._report.stats import wait_within
from .look import Look, state_of
from .page import WORKING

Rows = list[tuple[str, ...]]


class Table(NamedTuple):
    """Rows of texts under a title and heads."""

    title: str
    heads: tuple[str, ...]
    rows: Rows
    numbers: int
    """So many columns, behind the first, are numbers."""
    wide: tuple[int, ...] = (0,)
    """The columns that get what room there is."""


def _seconds(value: float | None) -> str:
    if value is None:
        return "-"
    if value < 1e-3:
        return f"{value * 1e6:.0f} us"
    if value < 1:
        return f"{value * 1e3:.0f} ms"
    return f"{value:.1f} s" if value < 100 else f"{value:,.0f} s"


def _number(value: float) -> str:
    if value < 1e6:
        return f"{value:,.0f}"
    return f"{value / 1e6:,.1f}M" if value < 1e9 else f"{value / 1e9:,.1f}G"


def _rate(look: Look, queue: int) -> str:
    rates = look.rates.get(queue)
    return _number(rates["finished"] + rates["cancelled"]) if rates else "-"


def queues(look: Look) -> Table:
    """A row for each queue."""
    heads = ("queue", "done/s", "pending", "running", "blocked", "workers", "failed", "99 % wait")
    rows: Rows = [
        (
            queue.name,
            _rate(look, queue.id),
            *(
                _number(queue.counts[name])
                for name in ("pending", "running", "blocked", "workers", "failed")
            ),
            _seconds(wait_within(queue.waits, 0.99)),
        )
        for queue in look.queues()
    ]
    return Table("queues", heads, rows, len(heads) - 1)


def keys(look: Look) -> Table:
    """A row for each of the longest keys."""
    longest = look.longest_keys()
    rows: Rows = [(text or "?", _number(works), queue.name) for queue, text, works in longest]
    seen = sum(queue.keys_seen for queue in look.queues())
    known = sum(queue.keys for queue in look.queues())
    part = f", of {seen:,} of {known:,} keys" if seen < known else ""
    return Table(f"keys with the most works{part}", ("key", "works", "queue"), rows, 1)


def workers(look: Look) -> Table:
    """A row for each worker that has work."""
    names = {queue.id: queue.name for queue in look.queues()}
    busy = [worker for worker in look.workers() if worker.flags & WORKING]
    rows: Rows = [
        (
            str(worker.thread),
            _seconds(look.seconds(worker)),
            state_of(worker),
            worker.work or "?",
            worker.blocked_in or "-",
            names.get(worker.queue, "?"),
        )
        for worker in busy
    ]
    left_out = look.snapshot.workers_left_out if look.snapshot else 0
    title = "workers with work" + (f", and {left_out:,} workers more" if left_out else "")
    return Table(title, ("thread", "for", "", "work", "blocked in", "queue"), rows, 1, (3, 4))


def tables(look: Look) -> list[Table]:
    """Returns those that have rows."""
    return [table for table in (queues(look), keys(look), workers(look)) if table.rows]
