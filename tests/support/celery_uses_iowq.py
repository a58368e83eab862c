"""A plugin for pytest: Celery's tests of its thread pool find iowq's in its place."""

from __future__ import annotations

from celery.concurrency import thread

from iowq.celery import TaskPool

thread.TaskPool = TaskPool  # type: ignore[assignment,misc]
