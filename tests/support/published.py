"""What tools/wheels.py makes: see tests/project/test_wheels.py."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from ahead import LOW_PRIORITY_SECONDS

ROOT = Path(__file__).resolve().parents[2]
TIME = "1700000000"  # seconds


def _make(place: Path) -> Path:
    ignored = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__")
    project = Path(shutil.copytree(ROOT, place / "iowq", ignore=ignored))
    result = subprocess.run(
        [sys.executable, str(project / "tools/wheels.py"), str(place / "dist")],
        env={**os.environ, "SOURCE_DATE_EPOCH": TIME},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LOW_PRIORITY_SECONDS,
        check=False,
    )
    assert result.returncode == 0, result.stdout
    return place / "dist"


def make_twice(folder: Path) -> tuple[Path, Path]:
    """Returns the folders with both."""
    return _make(folder / "first"), _make(folder / "a second place")
