"""mypy --strict, ruff, and the compilers' warnings on what binds C and Python."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def _check(*command: str) -> None:
    result = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    "what", ["src", "build.py", "benchmarks", "docs", "examples/hash_tree.py", "tests", "tools"]
)
def test_mypy(what: str) -> None:
    _check(sys.executable, "-m", "mypy", "--strict", what)


def test_pyright_knows_what_the_examples_say() -> None:
    """As mypy does, which has checked them with the other tests."""
    python = ["--pythonpath", sys.executable]
    _check(sys.executable, "-m", "pyright", *python, "tests/project/typing_examples.py")


def test_ruff() -> None:
    _check(sys.executable, "-m", "ruff", "check", ".")
    _check(sys.executable, "-m", "ruff", "format", "--check", ".")


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_extension_compiles_without_warnings(compiler: str) -> None:
    """As setuptools builds it."""
    sources = [path for folder in ("csrc", "src/binding") for path in (ROOT / folder).rglob("*.c")]
    assert shutil.which(compiler), f"{compiler} is not installed; see tests/packages.txt"
    _check(
        *(compiler, "-std=c11", "-Wall", "-Wextra", "-Werror", "-O2", "-pthread", "-fsyntax-only"),
        *("-DPy_LIMITED_API=0x030a0000", "-Icsrc", "-Isrc/binding"),
        *("-isystem", sysconfig.get_path("include"), *map(str, sources)),
    )


def test_binding_uses_the_limited_api_only() -> None:
    """Else one build would not serve every version from 3.10 on."""
    import iowq._native as native

    assert str(native.__file__).endswith(".abi3.so")


@pytest.mark.parametrize("name", ["io_wq.h", "io_wq_io.h"])
def test_every_c_function_of_the_header_is_documented(name: str) -> None:
    header = (ROOT / "csrc" / name).read_text()
    blocks = re.split(r"\n\n", header)
    undocumented = [
        block
        for block in blocks
        if re.search(r"^\w[\w *]+\bio_wq_\w+\(", block, re.MULTILINE) and "/*" not in block
    ]
    assert not undocumented
