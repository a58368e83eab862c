"""sdist and wheel, and that `python -m build` isn't build.py."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def _run(*command: object, cwd: Path) -> str:
    result = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `python -m build`, run from a copy of the project's root, makes."""
    root = tmp_path_factory.mktemp("project") / "iowq"
    ignored = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, root, ignore=ignored)
    _run(sys.executable, "-m", "build", cwd=root)
    return root / "dist"


def test_sdist_has_all_that_a_build_needs(dist: Path) -> None:
    (sdist,) = dist.glob("iowq-*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    needed = {"pyproject.toml", "build.py", "README.md", "LICENSE"}
    needed |= {str(p.relative_to(ROOT)) for p in (ROOT / "csrc").rglob("*.[ch]")}
    needed |= {str(p.relative_to(ROOT)) for p in (ROOT / "src").rglob("*.*")}
    assert needed - names == set()


def test_wheel_is_for_every_later_version(dist: Path) -> None:
    (wheel,) = dist.glob("iowq-*.whl")
    assert "-cp310-abi3-linux" in wheel.name
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {"iowq/_native.abi3.so", "iowq/py.typed", "iowq/_native.pyi"} <= names
    assert not any(name.startswith(("tests/", "csrc/", "build.py")) for name in names)


def test_wheel_works_alone(dist: Path, tmp_path: Path) -> None:
    (wheel,) = dist.glob("iowq-*.whl")
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv/bin/python"
    _run(python, "-m", "pip", "install", "--quiet", wheel, cwd=tmp_path)
    code = "import iowq\nwith iowq.WorkQueue() as wq: wq.enqueue(print, 'works')"
    assert _run(python, "-c", code, cwd=tmp_path) == "works\n"


def test_other_interpreters_are_told_why() -> None:
    """As setuptools imports build.py."""
    code = "import sys; sys.implementation.name = 'pypy'; import build"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert result.stderr.startswith("iowq needs CPython, not pypy: ")
