"""Runs of the package's tests without a GIL, and under ThreadSanitizer."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

import free_threaded
from free_threaded import run

ROOT = Path(__file__).resolve().parents[2]
#: What can be installed for free-threaded 3.13, of what the tests need.
REQUIREMENTS = [
    *("aiofiles", "anyio[trio]", "coverage", "dask", "hypothesis", "mfusepy"),
    *("mysql-connector-python", "opentelemetry-sdk", "pandas", "prometheus-client", "psycopg"),
    *("psycopg-pool", "pymysql", "pytest", "pytest-timeout", "redis", "requests", "rich"),
    *("s3transfer", "sqlalchemy", "tqdm", "urllib3"),
]
#: These are about libraries of which some can't: psycopg2, mysqlclient, pycurl, tornado.
OF_LIBRARIES = ("test_connections.py", "test_libraries.py", "test_on_cancel.py", "test_servers.py")
#: What ThreadSanitizer watches. It takes 20 times as long there; IOWQ_SANITIZED names more.
SANITIZED = os.environ.get("IOWQ_SANITIZED", "api/test_at_once.py").split()
#: What can't pass there: it makes works long, and has a thread that makes system calls; processes
#: with an empty environment aren't told where to report to; and a child whose only thread ends,
#: a worker, is ended by the sanitizer's own exit handler, which uses what it has freed.
NOT_SANITIZED = (
    "tests/api/test_threads.py",
    "tests/api/test_main.py::test_shows_what_the_pool_does",
    "tests/api/test_lifecycle.py::test_a_work_that_only_forks",
)
#: It goes on after a report, and says nothing of them in the exit status. Nobody joins the
#: threads of a queue that a module keeps to the process' end.
TSAN_OPTIONS = (
    "halt_on_error=0:exitcode=0:report_signal_unsafe=0:report_thread_leaks=0:die_after_fork=0:"
    "log_path={}"
)
#: It keeps a handler until the call that the signal interrupts is over, which no cancel can end
#: then; but for the signals of faults. So cancel is to pick one of those.
SIGNALS = """\
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <signal.h>
#undef SIGRTMIN
#undef SIGRTMAX
#define SIGRTMIN SIGSYS
#define SIGRTMAX (SIGSYS + 2)
"""


def _copy_project(folder: Path) -> Path:
    ignored = shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__")
    return Path(shutil.copytree(ROOT, folder / "iowq", ignore=ignored))


def _pytest(python: Path, project: Path, *options: str, timeout: int, **environment: str) -> None:
    command = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", *options]
    environment["HYPOTHESIS_STORAGE_DIRECTORY"] = str(project.parent / "hypothesis")
    run(*command, cwd=project / "tests", timeout=timeout, **environment)


def _run_plain(folder: Path) -> Path:
    """Runs tests/api and tests/cancel. Returns the interpreter, which has the package."""
    venv = folder / "venv"
    run(free_threaded.python("plain"), "-m", "venv", "--without-pip", venv, cwd=folder)
    python = venv / "bin/python"
    pip = [sys.executable, "-m", "pip", "--quiet", "--python", str(python), "install"]
    run(*pip, "pip>=25", cwd=folder)  # older ones take wheels for builds with a GIL
    pip = [str(python), "-m", "pip", "--quiet", "install", "--no-compile"]
    project = _copy_project(folder)
    source = free_threaded.cffi(folder)
    run(*pip, "setuptools>=77", "wheel", cwd=folder)
    run(*pip, "--no-build-isolation", source, cwd=folder)
    run(*pip, "--no-build-isolation", "--no-deps", project, cwd=folder)
    # of some the newest version has to be compiled, for hours
    run(*pip, "--only-binary=:all:", *REQUIREMENTS, cwd=folder)
    others = [f"--ignore=cancel/{name}" for name in OF_LIBRARIES]
    _pytest(python, project, "api", "cancel", *others, timeout=1500)
    return python


def _run_sanitized(folder: Path, plain: Path) -> Path:
    """Runs the tests that ThreadSanitizer is to watch. Returns the folder with its reports.

    What they need is the other interpreter's, which has the same ABI, and installs it faster.
    """
    venv = folder / "venv"
    run(free_threaded.python("sanitized"), "-m", "venv", "--without-pip", venv, cwd=folder)
    project = _copy_project(folder)
    pip = [sys.executable, "-m", "pip", "--quiet", "--python", str(plain)]
    wheel = [*pip, "wheel", "--no-build-isolation", "--no-deps", "-w", str(folder), str(project)]
    signals = folder / "signals.h"
    signals.write_text(SIGNALS)
    sanitize = "-fsanitize=thread -g -O1"
    run(*wheel, cwd=folder, CFLAGS=f"{sanitize} -include {signals}", LDFLAGS=sanitize)
    (built,) = folder.glob("iowq-*.whl")
    shutil.unpack_archive(built, folder / "package", "zip")
    (packages,) = plain.parents[1].glob("lib/python3.*/site-packages")
    (own,) = venv.glob("lib/python3.*/site-packages")
    (own / "tests.pth").write_text(f"{folder / 'package'}\n{packages}\n")
    (folder / "reports").mkdir()
    _pytest(
        venv / "bin/python",
        project,
        *(*SANITIZED, "--timeout", "300"),
        *(f"--deselect={test}" for test in NOT_SANITIZED),
        timeout=int(os.environ.get("IOWQ_SANITIZED_SECONDS", "1200")),
        PYTHONDONTWRITEBYTECODE="",
        PYTHONPYCACHEPREFIX=str(folder / "cache"),
        TSAN_OPTIONS=TSAN_OPTIONS.format(folder / "reports/of"),
    )
    return folder / "reports"


class Run(NamedTuple):
    """What has passed: the interpreter that has the package, and ThreadSanitizer's reports."""

    python: Path
    reports: Path


def run_tests(folder: Path) -> Run:
    """Runs the tests on both interpreters, one after the other: the first one's packages are
    the other's, too."""
    for name in "plain", "sanitized":
        (folder / name).mkdir()
    python = _run_plain(folder / "plain")
    return Run(python, _run_sanitized(folder / "sanitized", python))
