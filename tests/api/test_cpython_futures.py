"""CPython's tests of executors in threads, with the queue as the executor."""

from __future__ import annotations

import concurrent.futures
import importlib
import sys
import unittest
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

import cpython
from cpython_queue import WorkQueue

EXCEPTED = {
    f"ThreadPoolShutdownTest.{test}": "a worker is called NAME-NODE/NUMBER: see test_errors.py"
    for test in ("test_thread_names_assigned", "test_thread_names_default")
}

#: Comes first in the tests' child processes.
CHILD = """\
import sys
sys.path.append({folder!r})
import concurrent.futures, cpython_queue, test
concurrent.futures.WorkQueue = concurrent.futures.ThreadPoolExecutor = cpython_queue.WorkQueue
test.__path__ = {path!r}
"""


def _collect() -> dict[str, unittest.TestCase]:
    """The tests by class and method: which module has them depends on the version.

    The other classes are about processes, and about futures that no executor made.
    """
    classes = cpython.classes_of(cpython.import_tests("test_concurrent_futures"))
    cases = cpython.cases_of(kind for kind in classes if _is_of_threads(kind))
    return {name.partition(".")[2]: case for name, case in cases.items()}


def _is_of_threads(kind: type[unittest.TestCase]) -> bool:
    executor: Any = getattr(kind, "executor_type", None)
    return executor is concurrent.futures.ThreadPoolExecutor


CASES = cpython.if_installed(_collect)


def test_all_classes_are_there() -> None:
    tests = _collect().keys()
    assert not EXCEPTED.keys() - tests
    assert {test.partition(".")[0].removesuffix("s") for test in tests} == {
        f"ThreadPool{what}Test"
        for what in (
            *("AsCompleted", "Executor", "FailingInitializer", "Initializer", "Shutdown", "Wait"),
        )
    }


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
@pytest.mark.parametrize("case", cpython.parameters(CASES, EXCEPTED))
def test_cpython(case: unittest.TestCase) -> None:
    with (
        mock.patch.object(concurrent.futures, "ThreadPoolExecutor", WorkQueue),
        mock.patch.object(type(case), "executor_type", WorkQueue),
        _prepared_children(),
    ):
        cpython.run(case)


@contextmanager
def _prepared_children() -> Iterator[None]:
    helper: Any = importlib.import_module("test.support.script_helper")
    run = helper.run_python_until_end
    preparation = CHILD.format(
        folder=str(Path(cpython.__file__).parent), path=list(sys.modules["test"].__path__)
    )

    def run_prepared(option: str, code: str, **env: str) -> object:
        assert option == "-c"
        return run("-c", preparation + code, **env)

    with mock.patch.object(helper, "run_python_until_end", run_prepared):
        yield
