"""The package's tests on every CPython from 3.10 on, from one and the same wheel."""

from __future__ import annotations

import os
import shutil
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import interpreters
from interpreters import Interpreter
from iowq._diagnose.cancel_support import TESTED
from published import make_twice

ROOT = Path(__file__).resolve().parents[2]
TESTS = ("api", "cancel", "numa/test_nodes.py", "numa/test_topology.py")
OF_THIS_MACHINE = interpreters.of_this_machine()


def _wheel(published: tuple[Path, Path]) -> Path:
    """The one for any glibc on this kind of processor."""
    (wheel,) = published[0].glob(f"iowq-*-manylinux*_{os.uname().machine}.whl")
    return wheel


@contextmanager
def _folder(root: Path) -> Iterator[Path]:
    """A new folder in that system."""
    folder = root / "tmp" / f"iowq-{uuid.uuid4()}"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copy(source, target)


def _run_api_tests(
    _place: Path, interpreter: Interpreter, published: tuple[Path, Path]
) -> Interpreter:
    wheel = _wheel(published)
    root = interpreter.root
    with _folder(root) as folder:
        shutil.copy(wheel, folder)
        shutil.copy(ROOT / "pyproject.toml", folder)
        for name in ("conftest.py", "support", *TESTS):
            _copy(ROOT / "tests" / name, folder / "tests" / name)
        inside = Path("/") / folder.relative_to(root)
        python = str(inside / "venv/bin/python")
        pip = [python, "-m", "pip", "install", "--quiet", "--no-compile"]
        pytest_ = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        commands: list[tuple[list[str | Path], int]] = [
            ([interpreter.python, "-m", "venv", inside / "venv"], 120),
            ([*pip, f"{inside / wheel.name}[test-api]"], 600),
            ([*pytest_, *(inside / "tests" / name for name in TESTS)], 1200),
        ]
        environment = {
            "HYPOTHESIS_STORAGE_DIRECTORY": str(inside / "hypothesis"),
            # not the programs that others have cancelled already
            "IOWQ_PROGRAMS": "300",
            "IOWQ_SEED": str(interpreter.version[1]),
        }
        for command, timeout in commands:
            result = interpreter.run(command, timeout, **environment)
            assert result.returncode == 0, result.stdout + result.stderr
    return interpreter


def _run_on_newest(folder: Path, name: str, published: tuple[Path, Path]) -> Interpreter:
    (newest,) = [i for i in interpreters.newest() if name == "{}.{}".format(*i.version)]
    return _run_api_tests(folder, newest, published)


@pytest.mark.ahead(by=make_twice, parametrized=False)
@pytest.mark.beside(by=_run_api_tests)
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("interpreter", OF_THIS_MACHINE, ids=str)
def test_api_on(interpreter: Interpreter, beside: Interpreter) -> None:
    assert beside == interpreter


@pytest.mark.ahead(by=make_twice, parametrized=False)
@pytest.mark.beside(by=_run_on_newest)
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("name", interpreters.NEWEST)
def test_api_on_the_newest(name: str, beside: Interpreter) -> None:
    assert name in str(beside)


def test_the_package_says_which_versions_were_tried() -> None:
    """No more, and no fewer, than these tests run on, in the package and in the README."""
    here = Interpreter(Path(sys.executable), sys.version_info[:3])
    versions = [i.version for i in (here, *OF_THIS_MACHINE, *interpreters.newest())]
    of_minors = {version[:2]: version for version in sorted(versions)}
    for version in TESTED:
        assert of_minors.get(version[:2], version) >= version, f"{version} isn't what is tested"
    if os.environ.get("CI"):
        assert {version[:2] for version in TESTED} == set(of_minors)
    readme = (ROOT / "README.md").read_text()
    for version in TESTED:
        assert ".".join(map(str, version)) in readme
