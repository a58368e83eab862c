"""Celery's own tests of its thread pool, with iowq's in its place."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
from importlib import metadata
from pathlib import Path

SUPPORT = Path(__file__).parents[1] / "support"
MODULE = "t/unit/concurrency/test_thread.py"
#: None can't hold.
LEFT_OUT: dict[str, str] = {}


def _download(folder: Path) -> str:
    """Returns the tests of the Celery that is installed: only its source distribution has them."""
    release = f"celery=={metadata.version('celery')}"
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    source = ["--no-binary=:all:", "--no-build-isolation", "--dest", str(folder)]
    subprocess.run([*pip, *source, release], check=True, timeout=100)
    (archive,) = folder.glob("celery-*.tar.gz")
    with tarfile.open(archive) as files:
        name = next(name for name in files.getnames() if name.endswith(MODULE))
        module = files.extractfile(name)
        assert module is not None
        return module.read().decode()


def test_celerys_own_tests_of_its_thread_pool(tmp_path: Path) -> None:
    module = tmp_path / "test_thread.py"
    module.write_text(_download(tmp_path))
    path = os.pathsep.join([str(SUPPORT), os.environ.get("PYTHONPATH", "")])
    pytest_ = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider"]
    result = subprocess.run(
        [
            *pytest_,
            "-p",
            "celery_uses_iowq",
            "-o",
            "python_classes=test_*",
            "-c",
            os.devnull,
            str(module),
        ],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    failed = set(re.findall(r"::(\w+) FAILED", result.stdout))
    assert failed == set(LEFT_OUT), result.stdout + result.stderr
    assert len(re.findall("PASSED", result.stdout)) >= 4


def test_nobody_needs_celery_for_the_rest() -> None:
    code = "import iowq, sys; sys.exit('celery' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
