"""CPython's own tests, as the interpreter's installation has them, for the queue to pass."""

from __future__ import annotations

import gc
import importlib
import pkgutil
import sys
import unittest
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import pytest


class NotInstalledError(Exception):
    """This interpreter comes without CPython's tests."""


def import_tests(name: str) -> list[ModuleType]:
    """Returns test.<name>: the module, or the modules of the package."""
    try:
        support: Any = importlib.import_module("test.support")
    except ModuleNotFoundError:
        raise _not_installed(name) from None
    support.use_resources = None  # all of them
    support.verbose = 0
    path: Any = sys.modules["test"].__path__
    if not _is_in(Path(path[0]), name):
        folder = _folder_of_an_older(name)
        if folder is None:
            raise _not_installed(name)
        path.append(str(folder))
    package = importlib.import_module(f"test.{name}")
    if not hasattr(package, "__path__"):
        return [package]
    modules = sorted(found.name for found in pkgutil.iter_modules(package.__path__))
    return [
        importlib.import_module(f"test.{name}.{module}")
        for module in modules
        if module.startswith("test_") and "windows" not in module
    ]


def _not_installed(name: str) -> NotInstalledError:
    package = f"libpython3.{sys.version_info.minor}-testsuite"
    return NotInstalledError(
        f"{sys.executable} comes without CPython's test.{name} (Debian has it in {package}),"
        " and no older CPython here has it"
    )


def _is_in(folder: Path, name: str) -> bool:
    return any((folder / file).exists() for file in (f"{name}.py", f"{name}/__init__.py"))


def _folder_of_an_older(name: str) -> Path | None:
    """Where an older version has the tests, which hold for this one as well.

    There are releases whose ``make install`` leaves some of them out (gh-115421).
    """
    roots = [Path("/usr"), *Path(sys.base_prefix).parent.iterdir()]
    folders = [folder for root in roots for folder in root.glob("lib/python3.*/test")]
    minors = {folder: int(folder.parent.name.split(".")[1].rstrip("t")) for folder in folders}
    usable = [
        folder
        for folder, minor in minors.items()
        if 10 <= minor <= sys.version_info.minor and _is_in(folder, name)
    ]
    return max(usable, key=minors.__getitem__, default=None)


def classes_of(modules: Iterable[ModuleType]) -> list[type[unittest.TestCase]]:
    """Returns the test cases that the modules define."""
    return [
        found
        for module in modules
        for found in vars(module).values()
        if isinstance(found, type)
        and issubclass(found, unittest.TestCase)
        and found.__module__ == module.__name__
    ]


def cases_of(classes: Iterable[type[unittest.TestCase]]) -> dict[str, unittest.TestCase]:
    """Returns their tests by name."""
    return {
        f"{kind.__module__.split('.')[-1]}.{kind.__name__}.{method}": kind(method)
        for kind in classes
        for method in unittest.defaultTestLoader.getTestCaseNames(kind)
    }


def if_installed(
    collect: Callable[[], dict[str, unittest.TestCase]],
) -> dict[str, unittest.TestCase]:
    """For parameters, which are made before a test can fail."""
    try:
        return collect()
    except NotInstalledError:
        return {}


def parameters(
    cases: Mapping[str, unittest.TestCase], excepted: Mapping[str, str] | None = None
) -> list[Any]:
    """One for each test. Those that are excepted, with the reason, have to fail."""
    marks = {
        name: pytest.mark.xfail(reason=reason, strict=True)
        for name, reason in (excepted or {}).items()
    }
    return [pytest.param(case, id=name, marks=marks.get(name, ())) for name, case in cases.items()]


@contextmanager
def distinct_ports() -> Iterator[None]:
    """CPython's tests that ask for several unused ports get different ones.

    Nobody has a port between two calls of ``find_unused_port``: one time in some ten thousand
    it returns the same port twice, and a test that takes them for two tests something else.
    """
    helper: Any = importlib.import_module("test.support.socket_helper")
    find = helper.find_unused_port
    found: set[int] = set()

    def find_another(*args: Any, **kwargs: Any) -> int:
        port: int = find(*args, **kwargs)
        while port in found:
            port = find(*args, **kwargs)
        found.add(port)
        return port

    with mock.patch.object(helper, "find_unused_port", find_another):
        yield


def run(case: unittest.TestCase) -> None:
    """Runs one test with its module's and its class' fixtures; fails or skips as it does."""
    support: Any = sys.modules["test.support"]
    gc.collect()
    support.environment_altered = False
    result = unittest.TestResult()
    unittest.TestSuite([type(case)(case._testMethodName)]).run(result)
    reports = [report for _, report in result.errors + result.failures]
    if reports:
        pytest.fail("\n".join(reports), pytrace=False)
    for _, reason in result.skipped:
        pytest.skip(reason)
    assert result.testsRun == 1
    assert not support.environment_altered, "it left threads or processes behind"
