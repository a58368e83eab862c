"""Others may watch this process's queues, and find works by the names that people know them by."""

from .._report.watched import learn_target, let_watch
from .executor import TimeLimit


def _sample() -> None:
    pass


learn_target(TimeLimit(1, _sample), _sample)
let_watch()
