"""Which handle a mode gives, and what is wrong with a mode: as :func:`io.open` says."""

from __future__ import annotations

import io
import os
import warnings
from dataclasses import dataclass

_FLAGS = {"r": 0, "w": os.O_CREAT | os.O_TRUNC, "x": os.O_CREAT | os.O_EXCL, "a": os.O_CREAT}
_LETTERS = frozenset("rwxab+t")
DEFAULT_SIZE = 1 << 16  # of the buffers, in bytes


@dataclass(frozen=True)
class TextKind:
    """How bytes become text."""

    encoding: str
    errors: str
    newline: str | None


@dataclass(frozen=True)
class Kind:
    """What a handle does."""

    mode: str  # as it was given
    begin: str  # r, w, x or a
    updates: bool
    size: int  # of its buffers, in bytes; 0: it has none
    text: TextKind | None  # None: it is binary
    line_buffering: bool | None  # None: if it is a terminal

    @property
    def reads(self) -> bool:
        """Whether it can be read."""
        return self.updates or self.begin == "r"

    @property
    def writes(self) -> bool:
        """Whether it can be written to."""
        return self.updates or self.begin != "r"

    @property
    def appends(self) -> bool:
        """Whether all writes go to the end of the file."""
        return self.begin == "a"

    @property
    def flags(self) -> int:
        """Those of :func:`os.open`."""
        access = os.O_RDWR if self.updates else os.O_WRONLY if self.writes else os.O_RDONLY
        append = os.O_APPEND if self.appends else 0
        return access | append | _FLAGS[self.begin] | os.O_CLOEXEC

    @property
    def binary_mode(self) -> str:
        """As :attr:`io.FileIO.mode`."""
        begin = "r" if self.begin == "w" and self.updates else self.begin
        return begin + "b" + "+" * self.updates


def parse(
    mode: str, buffering: int, encoding: str | None, errors: str | None, newline: str | None
) -> Kind:
    """Returns what :func:`io.open` would make of these."""
    if not isinstance(mode, str):
        raise TypeError(f"open() argument 'mode' must be str, not {type(mode).__name__}")
    letters = set(mode)
    if letters - _LETTERS or len(mode) > len(letters):
        raise ValueError(f"invalid mode: {mode!r}")
    if {"b", "t"} <= letters:
        raise ValueError("can't have text and binary mode at once")
    begin = letters & _FLAGS.keys()
    if len(begin) != 1:
        raise ValueError("must have exactly one of create/read/write/append mode")
    size = buffering if buffering == 0 or buffering > 1 else DEFAULT_SIZE
    text: TextKind | None = None
    line_buffering: bool | None = False
    if "b" in letters:
        _refuse_text_arguments(encoding=encoding, errors=errors, newline=newline)
        if buffering == 1:
            _warn_of_line_buffering()
    else:
        text, line_buffering = _parse_text(buffering, encoding, errors, newline)
    return Kind(mode, begin.pop(), "+" in letters, size, text, line_buffering)


def _parse_text(
    buffering: int, encoding: str | None, errors: str | None, newline: str | None
) -> tuple[TextKind, bool | None]:
    if buffering == 0:
        raise ValueError("can't have unbuffered text I/O")
    wrapper = io.TextIOWrapper(io.BytesIO(), encoding, errors, newline)  # it checks them
    kind = TextKind(wrapper.encoding, wrapper.errors or "strict", newline)
    return kind, True if buffering == 1 else None if buffering < 0 else False


def _refuse_text_arguments(**arguments: str | None) -> None:
    for name, value in arguments.items():
        if value is not None:
            article = "an" if name[0] == "e" else "a"
            raise ValueError(f"binary mode doesn't take {article} {name} argument")


def _warn_of_line_buffering() -> None:
    warnings.warn(
        "line buffering (buffering=1) isn't supported in binary mode, the default buffer size will"
        " be used",
        RuntimeWarning,
        stacklevel=4,
    )
