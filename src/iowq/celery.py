"""A task pool for Celery: ``celery worker`` with tasks that can be ended while they run.

``worker_pool = "iowq.celery:TaskPool"`` in the app's configuration chooses it, or, without a
change of the app, ``CELERY_CUSTOM_WORKER_POOL=iowq.celery:TaskPool celery worker -P custom``.
"""

from ._celery.pool import KEY_HEADER, TaskPool

__all__ = ["KEY_HEADER", "TaskPool"]
