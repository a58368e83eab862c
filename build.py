"""Builds ``iowq._native``: the C core of ``csrc/`` and its binding in ``src/binding/``, by cffi.

setuptools calls :class:`BuildExt` (see ``pyproject.toml``). The declarations
that cffi needs are read from the C headers, so that they stand in one place.
"""

from __future__ import annotations

import re
import runpy
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parent


def run_the_build_package() -> None:
    """``python -m build`` in this folder means the package of that name, not this file."""
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]
    del sys.modules["__main__"]
    runpy.run_module("build", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    run_the_build_package()
    sys.exit()

if sys.implementation.name != "cpython":
    sys.exit(
        f"iowq needs CPython, not {sys.implementation.name}: it works with the interpreter's own "
        "threads and locks"
    )

from cffi import FFI  # noqa: E402
from setuptools import Extension  # noqa: E402, TC002
from setuptools.command.bdist_wheel import bdist_wheel  # noqa: E402
from setuptools.command.build_ext import build_ext  # noqa: E402

HEADERS = [ROOT / "csrc/io_wq.h", ROOT / "src/binding/binding.h"]
MODULE = "iowq._native"
#: cffi releases the GIL around every call. A call of 50 ns must not: each release
#: wakes whoever waits for the GIL, who then fights for it with the caller, work
#: by work. So the calls keep it, and those that wait release it by themselves.
PREAMBLE = """
#include "io_wq.h"
#include "binding.h"
#undef Py_BEGIN_ALLOW_THREADS
#undef Py_END_ALLOW_THREADS
#define Py_BEGIN_ALLOW_THREADS {
#define Py_END_ALLOW_THREADS }
"""
#: Free-threaded builds have a stable ABI from 3.15 on (abi3t), which lacks what src/binding/locks.h
#: needs: locks, a call with all threads stopped, a look at reference counts. So each version has
#: its own wheel.
STABLE_ABI = not sysconfig.get_config_var("Py_GIL_DISABLED")


def declarations(header: Path) -> str:
    """Returns what a C header declares, without what is the preprocessor's."""
    text = header.read_text().replace("\\\n", " ")
    text = re.sub(r"^#ifdef __cplusplus$.*?^#endif$", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"^\s*#.*$", "", text, flags=re.MULTILINE)


def ffi() -> FFI:
    """Returns the builder of the module."""
    builder = FFI()
    for header in HEADERS:
        builder.cdef(declarations(header))
    builder.set_source(MODULE, PREAMBLE)
    return builder


class BuildExt(build_ext):
    """Generates the module's C source before it compiles it."""

    def build_extension(self, ext: Extension) -> None:
        """Adds the generated source, and builds for the stable ABI."""
        source = Path(self.build_temp) / "_native.c"
        source.parent.mkdir(parents=True, exist_ok=True)
        ffi().emit_c_code(str(source))
        ext.sources = [*ext.sources, str(source)]
        ext.py_limited_api = STABLE_ABI
        if STABLE_ABI:
            ext.define_macros.append(("Py_LIMITED_API", "0x030a0000"))
        super().build_extension(ext)


class BdistWheel(bdist_wheel):
    """Says in the wheel's name which interpreters it serves."""

    def finalize_options(self) -> None:
        """Sets the tag: any CPython from 3.10 on."""
        if STABLE_ABI:
            self.py_limited_api = "cp310"
        super().finalize_options()
