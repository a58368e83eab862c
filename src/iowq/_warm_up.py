"""Has cffi make now, without a GIL, what it otherwise makes when it is first asked for.

It reads a type's declaration into memory that all threads share. What it has made it keeps, and
finds again by the same text. A GIL that is on now stays on.
"""

import sys

from ._native import ffi, lib


def _warm_up() -> None:
    for declaration in (
        "struct io_wq_blocked_call *",
        "struct io_wq_flush *",
        "struct io_wq_stats *",
        "unsigned[2]",
    ):
        ffi.new(declaration)
    for declaration in ("struct io_wq_stats[]", "unsigned long[]"):
        ffi.new(declaration, 1)
    ffi.cast("uintptr_t", ffi.from_buffer(bytearray(1)))
    for name in dir(lib):
        getattr(lib, name)


if not getattr(sys, "_is_gil_enabled", lambda: True)():
    _warm_up()
