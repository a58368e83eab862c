"""What takes long is begun before its test is reached, if that test was chosen.

``@pytest.mark.ahead(by=function)``: begun with the session, in processes of the lowest priority:
on CPU time that other tests leave over, which mostly wait for something. With ``after=another``,
a function that other tests want so, too: it is also given what that one has returned.

``@pytest.mark.beside(by=function)``: begun with the first test of these in its folder, four at
a time, which wait, too. If the test has both marks, the function is also given what that of the
other has returned.

The function is called with a new folder and the test's parameters, once for all tests that
want the same; with ``parametrized=False``, without parameters, once for all. What it returns, or
raises, a test gets from the fixture of the mark's name.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest

LOWEST_PRIORITY = 19
AT_A_TIME = 4
LOW_PRIORITY_SECONDS = 1800  # a limit for what others may leave no CPU time for


class Job(NamedTuple):
    """A call that was begun."""

    function: Callable[..., Any]
    folder: Path
    parameters: tuple[Any, ...]
    outcome_before: Path | None = None
    """Of the job that it comes after."""

    @property
    def outcome(self) -> Path:
        """The file with what it returned, or the traceback of what it raised."""
        return self.folder / "outcome"


_JOB = pytest.StashKey[Job]()
_FUTURE = pytest.StashKey[Future[Any]]()
#: Of a folder of tests: they are begun.
Begin = Callable[[Path], None]


def _wanted(request: pytest.FixtureRequest, mark_name: str) -> Iterator[tuple[pytest.Item, Job]]:
    """The session's tests with this mark, and what they want."""
    factory: pytest.TempPathFactory = request.getfixturevalue("tmp_path_factory")
    jobs: dict[tuple[Callable[..., Any], str], Job] = {}
    for item in request.session.items:
        if mark := item.get_closest_marker(mark_name):
            callspec = getattr(item, "callspec", None)
            if not mark.kwargs.get("parametrized", True):
                callspec = None
            key = mark.kwargs["by"], callspec.id if callspec else ""
            if after := mark.kwargs.get("after"):
                yield item, jobs.setdefault((after, ""), Job(after, factory.mktemp(mark_name), ()))
            if key not in jobs:
                parameters = tuple(callspec.params.values()) if callspec else ()
                before = jobs[after, ""].outcome if after else None
                jobs[key] = Job(key[0], factory.mktemp(mark_name), parameters, before)
            yield item, jobs[key]


@pytest.fixture(scope="session", autouse=True)
def _begun_ahead(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """Begins them, in processes that are not the children of this one, whose tests are about
    children, threads and signals, too; the end ends what is left."""
    jobs = {}  # each once, in order: those that wait for others come last
    for item, job in _wanted(request, "ahead"):
        item.stash[_JOB] = job
        jobs[job.folder] = job
    in_order = sorted(jobs.values(), key=lambda job: job.outcome_before is not None)
    if not jobs:
        yield
        return
    file = tmp_path_factory.mktemp("jobs") / "jobs"
    file.write_bytes(pickle.dumps(sys.path) + pickle.dumps(in_order))
    runner = subprocess.Popen([sys.executable, __file__, file], start_new_session=True)
    yield
    os.killpg(runner.pid, signal.SIGKILL)
    runner.wait()


@pytest.fixture(scope="session")
def _begin_beside(request: pytest.FixtureRequest) -> Iterator[Begin]:
    wanted = list(_wanted(request, "beside"))
    futures: dict[Path, Future[Any]] = {}
    with ThreadPoolExecutor(AT_A_TIME) as pool:

        def begin(tests: Path) -> None:
            for item, job in wanted:
                if item.path.parent == tests and _FUTURE not in item.stash:
                    if job.folder not in futures:
                        futures[job.folder] = pool.submit(_run_beside, item, job)
                    item.stash[_FUTURE] = futures[job.folder]

        yield begin
        pool.shutdown(cancel_futures=True)


def _run_beside(item: pytest.Item, job: Job) -> Any:
    prepared = (_result_of(item.stash[_JOB].outcome),) if _JOB in item.stash else ()
    return job.function(job.folder, *job.parameters, *prepared)


def _result_of(outcome: Path) -> Any:
    while not outcome.exists():  # the mark "timeout" is the test's deadline
        time.sleep(0.02)
    value, error = pickle.loads(outcome.read_bytes())
    if error:
        pytest.fail(error)
    return value


@pytest.fixture
def ahead(request: pytest.FixtureRequest) -> Any:
    return _result_of(request.node.stash[_JOB].outcome)


@pytest.fixture
def beside(request: pytest.FixtureRequest, _begin_beside: Begin) -> Any:
    _begin_beside(request.node.path.parent)
    return request.node.stash[_FUTURE].result()


def _run(job: Job) -> None:
    value, error = None, ""
    try:
        before = (_result_of(job.outcome_before),) if job.outcome_before else ()
        value = job.function(job.folder, *job.parameters, *before)
    except BaseException:  # pytest's failures are none of Exception's
        error = traceback.format_exc()
    part = job.folder / "outcome.part"
    part.write_bytes(pickle.dumps((value, error)))
    part.rename(job.outcome)


def _main() -> None:
    os.nice(LOWEST_PRIORITY)
    with Path(sys.argv[1]).open("rb") as file:
        sys.path[:] = pickle.load(file)
        jobs: list[Job] = pickle.load(file)
    with ProcessPoolExecutor() as pool:
        list(pool.map(_run, jobs))


if __name__ == "__main__":
    sys.modules["ahead"] = sys.modules["__main__"]  # by that name jobs were pickled
    _main()
