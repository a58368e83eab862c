"""aiofiles' own tests, as its source distribution has them, pass with ``iowq.files``.

What they call ``aiofiles.threadpool.open`` is ``iowq.files.open``. What can't pass is named one by
one, with the reason; and it has to fail.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

import pytest

#: Tests of what isn't iowq.files': aiofiles' other modules.
LEFT_OUT = {
    "test_os.py": "aiofiles.os: functions of the module os, in threads",
    "test_stdio.py": "aiofiles.stdin and the like: wrappers of sys.stdin, which a test replaces",
    "test_tempfile.py": "aiofiles.tempfile",
    "threadpool/test_wrap.py": "aiofiles.threadpool.wrap: makes a file of io's one of aiofiles'",
}

#: Tests that fail, and why.
FAILING = {
    "threadpool/test_concurrency.py::test_slow_file": (
        "replaces the function that aiofiles.threadpool calls to open a file"
    ),
}

#: For who runs them: aiofiles' names for what is here, and what pytest-asyncio would do.
CONFTEST = """
import asyncio
import inspect
import socket

import aiofiles.threadpool
import pytest
from iowq import files


def pytest_pyfunc_call(pyfuncitem):
    if inspect.iscoroutinefunction(pyfuncitem.obj):
        names = inspect.signature(pyfuncitem.obj).parameters
        asyncio.run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names}))
        return True


@pytest.fixture
def unused_tcp_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


# the tests look at what aiofiles wraps, and at what its context manager holds
for handle in (files.BinaryFile, files.TextFile):
    handle._file = property(lambda self: self)
opening = type(files.open(0, closefd=False))
opening._obj = property(lambda self: self._handle)
aiofiles.threadpool.open = files.open


@pytest.fixture(autouse=True)
def is_really_ours():
    from aiofiles.threadpool import open as opened
    assert opened is files.open
"""


@pytest.fixture(scope="module")
def tests(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the tests of the version that is installed."""
    folder = tmp_path_factory.mktemp("aiofiles")
    name = f"aiofiles=={version('aiofiles')}"
    options = ["--no-deps", "--no-binary", "aiofiles", "--dest", str(folder)]
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", *options, name],
        check=True,
        timeout=200,
    )
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    (tests,) = folder.glob("*/tests")
    (tests / "conftest.py").write_text(CONFTEST)
    return tests


def _run(tests: Path, *options: str) -> str:
    command = [sys.executable, "-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider", *options]
    result = subprocess.run(
        [*command, "-W", "error::pytest.PytestUnraisableExceptionWarning", str(tests)],
        cwd=tests.parent,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        env={**os.environ, "PYTEST_ADDOPTS": ""},
    )
    return result.stdout + result.stderr


def test_they_pass(tests: Path) -> None:
    ignored = [f"--ignore={tests / name}" for name in LEFT_OUT]
    output = _run(tests, *ignored)
    passed = re.findall(r"^PASSED tests/(\S+)", output, re.MULTILINE)
    failed = re.findall(r"^(?:FAILED|ERROR) tests/(\S+)", output, re.MULTILINE)
    assert set(failed) == FAILING.keys(), output
    assert len(passed) > 100, output
