"""What is run in place of a task that can't be run as it asks for."""

from __future__ import annotations

from typing import Any, NoReturn

from dask._task_spec import Task


def refusal(key: Any, reason: str) -> Any:
    """Returns a recipe that fails, so that whoever wants the task learns why."""
    return Task(key, _refuse, reason)


def _refuse(reason: str) -> NoReturn:
    raise RuntimeError(reason)
