"""The package's tests where the C library is musl: the published wheel, in a real interpreter."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

import musl
from ahead import LOW_PRIORITY_SECONDS
from free_threaded import run
from published import make_twice

ROOT = Path(__file__).resolve().parents[2]
#: What the tests need, of what has wheels for musl; see pyproject.toml.
REQUIREMENTS = [
    *("aiofiles", "anyio[trio]", "coverage", "dask", "hypothesis", "mysql-connector-python"),
    *("opentelemetry-sdk", "pandas", "prometheus-client", "psycopg[binary]", "psycopg-pool"),
    *("psycopg2-binary", "pymysql", "pytest"),
    *("pytest-timeout", "redis", "requests", "rich", "s3transfer", "sqlalchemy", "tornado"),
    *("tqdm", "urllib3", "uvloop"),
]
_NO_WHEEL = "has no wheel for musl"
#: Tests that can't run there, and why. docs/cancel.md tells of the first two.
EXCEPTED = {
    "cancel/test_blocking_calls.py::test_cancel_ends[socket_getaddrinfo]": (
        "musl's takes no error for an end, until its time is up"
    ),
    "cancel/test_timeouts_anywhere.py::test_an_error_that_a_library_makes_of_it": (
        "it makes the call by ctypes, which sees EINTR there"
    ),
    "cancel/test_connections.py::test_the_next_user_of_a_pool_gets_its_own_answer[mysqlclient-": (
        f"mysqlclient {_NO_WHEEL}"
    ),
    "cancel/test_servers.py::test_curl_": f"pycurl {_NO_WHEEL}",
    "cancel/test_servers.py::test_http[http-_get_by_pycurl-": f"pycurl {_NO_WHEEL}",
    "cancel/test_servers.py::test_http[https-_get_by_pycurl-": f"pycurl {_NO_WHEEL}",
}
#: So that test_servers.py, whose other tests run, can be imported.
_PYCURL = "class error(Exception): ..."


def _copy_tests(folder: Path) -> Path:
    ignored = shutil.ignore_patterns("__pycache__")
    tests = Path(shutil.copytree(ROOT / "tests", folder / "tests", ignore=ignored))
    shutil.copy(ROOT / "pyproject.toml", folder)
    (tests / "support/pycurl.py").write_text(_PYCURL)
    return tests


def _run_tests(folder: Path, published: tuple[Path, Path]) -> Path:
    """Runs tests/api and tests/cancel. Returns the interpreter, which has the package."""
    venv = folder / "venv"
    run(musl.python(), "-m", "venv", "--without-pip", venv, cwd=folder)
    python = venv / "bin/python"
    (wheel,) = published[0].glob(f"iowq-*-musllinux*_{os.uname().machine}.whl")
    pip = [sys.executable, "-m", "pip", "--quiet", "--python", str(python), "install"]
    run(*pip, "--no-compile", "--only-binary=:all:", wheel, *REQUIREMENTS, cwd=folder)
    excepted = [f"--deselect=tests/{name}" for name in EXCEPTED]
    command = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", *excepted]
    run(
        *(*command, "api", "cancel"),
        cwd=_copy_tests(folder),
        timeout=1500,
        PYTHONPATH="",
        HYPOTHESIS_STORAGE_DIRECTORY=str(folder / "hypothesis"),
        IOWQ_FUSE_PYTHON=sys.executable,  # there is no libfuse for musl
    )
    return python


def _make(_folder: Path) -> Path:
    return musl.python()


@pytest.mark.ahead(by=_make)
@pytest.mark.timeout(LOW_PRIORITY_SECONDS)
def test_the_interpreter_is_for_musl(ahead: Path) -> None:
    program = "import sysconfig; print(sysconfig.get_config_var('SOABI').rpartition('-')[2])"
    assert run(ahead, "-c", program, cwd=ahead.parent) == "musl\n"


@pytest.mark.ahead(by=make_twice, parametrized=False)
@pytest.mark.beside(by=_run_tests)
@pytest.mark.timeout(3000)
def test_on_musl(beside: Path) -> None:
    """Cancel can do all there that it can do with glibc."""
    program = "import iowq; print(iowq.cancel_support()[:4])"
    assert run(beside, "-c", program, cwd=beside.parent) == "(True, True, True, ())\n"
