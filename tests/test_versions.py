"""The API's tests on every CPython of this machine, from one and the same wheel."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def _version_of(python: Path) -> tuple[int, int] | None:
    code = "import sys; print(sys.implementation.name, *sys.version_info[:2])"
    try:
        result = subprocess.run(
            [python, "-Ic", code], capture_output=True, text=True, timeout=30, check=False
        )
    except OSError:
        return None
    match = re.fullmatch(r"cpython (\d+) (\d+)\n", result.stdout)
    return (int(match[1]), int(match[2])) if match else None


def _other_interpreters() -> list[Path]:
    """One of each version from 3.10 on, but for the one that runs this."""
    candidates = sorted(Path.home().glob(".pyenv/versions/3.*/bin/python3"))
    for minor in range(10, 20):
        found = shutil.which(f"python3.{minor}")
        candidates += [Path(found)] if found else []
    versions = {sys.version_info[:2]: Path(sys.executable)}
    for python in candidates:
        version = _version_of(python)
        if version and version >= (3, 10):
            versions.setdefault(version, python)
    del versions[sys.version_info[:2]]
    return [python for _version, python in sorted(versions.items())]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    subprocess.run([*command, "-w", str(folder), str(ROOT)], check=True, timeout=280)
    return next(folder.glob("iowq-*.whl"))


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "python",
    _other_interpreters()
    or [pytest.param(None, marks=pytest.mark.skip(reason="no other CPython on this machine"))],
    ids=str,
)
def test_api_on(python: Path, wheel: Path, tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    subprocess.run([python, "-m", "venv", venv], check=True, timeout=120)
    pip = [str(venv / "bin/python"), "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, f"{wheel}[test-api]"], check=True, timeout=280)
    result = subprocess.run(
        [venv / "bin/python", "-m", "pytest", "-q", "-p", "no:cacheprovider", ROOT / "tests/api"],
        cwd=tmp_path,
        env={**os.environ, "HYPOTHESIS_STORAGE_DIRECTORY": str(tmp_path / "hypothesis")},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
