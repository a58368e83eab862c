"""The task's own code: the only part of a job that may be interrupted.

Celery's tracer, which is around it, catches exceptions, stores results and sends messages: half
of that must not be done. Inside of the tracer, and of what ``autoretry_for`` catches, each
task's ``run`` is replaced by one that says where the task's own code begins and ends.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from celery.app.trace import build_tracer

from .._cancel.scopes import interruptible
from .._work.work import Cancelled

if TYPE_CHECKING:
    from celery.app.base import Celery

    from .job import Job

_MARK = "_is_interruptible"
_EX_SOFTWARE = 70


class _Running(threading.local):
    job: Job | None = None  # the thread's, while it is outside of the task's own code


_running = _Running()


@contextmanager
def of(job: Job) -> Iterator[None]:
    """What is inside performs the job on this thread."""
    _running.job = job
    try:
        yield
    finally:
        _running.job = None


def prepare(app: Celery, name: str) -> None:
    """Sees to it that a task's own code can be interrupted, once."""
    task = app.tasks.get(name)
    if task is None:
        return
    run_name = "_orig_run" if hasattr(task, "_orig_run") else "run"  # autoretry_for has both
    run = getattr(task, run_name)
    if not hasattr(run, _MARK):
        setattr(task, run_name, _marked(run))
        task.__trace__ = build_tracer(name, task, app=app)


def _marked(run: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(run)
    def run_interruptibly(*args: Any, **kwargs: Any) -> Any:
        job = _running.job
        if job is None:
            return run(*args, **kwargs)  # called by another task, or by no job at all
        _running.job = None
        try:
            with job.limited(), interruptible():
                return run(*args, **kwargs)
        finally:
            _end_child(job)
            _running.job = job
            if job.is_terminated():  # who swallowed that has been announced as revoked
                raise Cancelled

    setattr(run_interruptibly, _MARK, True)
    return run_interruptibly


def _end_child(job: Job) -> None:
    """A process that the task has forked must not go on as a second worker."""
    if os.getpid() != job.process:
        os._exit(_EX_SOFTWARE)
