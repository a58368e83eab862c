"""A look as JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from .._report.stats import wait_within
from .look import Look, is_shielded, is_unbounded, state_of

if TYPE_CHECKING:
    from .page import QueueSeen, WorkerSeen
    from .process import Process


def _queue(look: Look, queue: QueueSeen) -> dict[str, Any]:
    return {
        "id": queue.id,
        "name": queue.name,
        **queue.counts,
        "waits": list(queue.waits),
        "wait_seconds": {
            "0.5": wait_within(queue.waits, 0.5),
            "0.99": wait_within(queue.waits, 0.99),
        },
        "concurrency": queue.concurrency,
        "unbounded": queue.unbounded,
        "nodes": queue.nodes,
        "keys": queue.keys,
        "keys_seen": queue.keys_seen,
        "longest_keys": [{"key": text, "works": works} for text, works in queue.longest_keys],
        "per_second": look.rates.get(queue.id),
    }


def _worker(look: Look, worker: WorkerSeen) -> dict[str, Any]:
    return {
        "queue": worker.queue,
        "thread": worker.thread,
        "node": worker.node,
        "unbounded": is_unbounded(worker),
        "state": state_of(worker),
        "work": worker.work or None,
        "number": worker.number or None,
        "seconds": look.seconds(worker),
        "key": worker.key or None,
        "blocked_in": worker.blocked_in or None,
        "shielded": is_shielded(worker),
    }


def as_json(process: Process, look: Look) -> str:
    """Returns one line."""
    snapshot = look.snapshot
    return json.dumps(
        {
            "pid": process.pid,
            "command": process.command(),
            "note": look.note,
            "queues": [_queue(look, queue) for queue in look.queues()],
            "queues_left_out": snapshot.queues_left_out if snapshot else 0,
            "workers": [_worker(look, worker) for worker in look.workers()],
            "workers_left_out": snapshot.workers_left_out if snapshot else 0,
        }
    )
