"""Connections whose call was ended by cancel: shut down, where a library would keep them.

A client library that asks a server and is interrupted before the answer has a connection
on which that answer is still to come. Good ones close it. Some keep it, or have a pool
that does, and the next query's answer is that of the one before. So the connection is
shut down before anybody can use it again: the next call on it fails at once, and pools
replace it.

That is done for whatever a third party's code, or a protocol's module of the standard
library, was reading or writing on; a socket that the user's own code reads from is left alone.
Libraries in C that are known to need it are in the table.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import sys
from types import FrameType
from typing import Any, NamedTuple

from .._native import lib
from .owners import Owner, owner_of


class Rule(NamedTuple):
    """What becomes of the connections of a library whose call was ended."""

    shut_down: bool
    reason: str


#: By the package's name, or the beginning of a shared object's file name.
RULES = {
    "libpq": Rule(True, "takes a failed poll for the end of a query, as psycopg2 uses it"),
    "libmysqlclient": Rule(True, "may keep a connection whose read has failed"),
    "libmariadb": Rule(True, "may keep a connection whose read has failed"),
    "_mysql": Rule(True, "mysqlclient and mysql.connector have libmysqlclient inside"),
    "mysql.connector": Rule(True, "SQLAlchemy's pool keeps its connections after errors"),
}
#: Between a socket and the code that uses it.
_PLUMBING = (socket.__file__, os.path.join(os.path.dirname(socket.__file__), "ssl.py"))  # noqa: PTH118, PTH120


def shut_down_after_cancel(library: str, shut_down: bool = True) -> None:
    """Says whether connections of a library are shut down when cancel has ended a call on them.

    Packages' are, unless this says otherwise, and those of some libraries in C.

    :param library: a package's name, or the beginning of a shared object's file name.
    :raises TypeError: if it isn't a str.
    """
    if not isinstance(library, str):
        raise TypeError(f"library must be a str, not {type(library).__name__}: {library!r}")
    RULES[library] = Rule(bool(shut_down), "the user's choice")
    _tell_core(library)


def _tell_core(library: str) -> None:
    caller = lib.IO_WQ_CALLER_CUT_OFF if RULES[library].shut_down else lib.IO_WQ_CALLER_TRUSTED
    error = lib.io_wq_judge_caller(os.fsencode(library), caller)
    if error:
        raise OSError(-error, os.strerror(-error))


def install() -> None:
    """Tells the core of the table, once for the process."""
    for library in RULES:
        _tell_core(library)


def call_ended(thing: Any) -> object:
    """Called on a worker, where it is, after cancel has ended a method of thing.

    Returns what the call is to return, or None: it raises Cancelled.
    """
    if type(thing) in _POLLS and _calls_from(sys._getframe(1), _LOOPS):
        return []  # its time is up
    sock = getattr(thing, "owner", thing)  # the ssl module's objects have one
    if isinstance(sock, socket.socket) and _is_to_be_shut_down(sys._getframe(1)):
        with contextlib.suppress(OSError):  # it listens, or is connected to nobody
            sock.getpeername()
            # not SSLSocket's, which goes on without encryption
            socket.socket.shutdown(sock, socket.SHUT_RDWR)
    return None


#: Event loops that an exception out of their poll leaves half-open, so that there can be no
#: other on that thread: they are ended in their own way (``on_cancel``), or in the user's code.
_LOOPS = ("trio.",)
_POLLS = (select.epoll, type(select.poll()))


def _calls_from(frame: FrameType, modules: tuple[str, ...]) -> bool:
    return str(frame.f_globals.get("__name__")).startswith(modules)


def _is_to_be_shut_down(frame: FrameType) -> bool:
    """Whether it is code of others that was in the middle of a conversation."""
    current: FrameType | None = frame
    while current is not None and current.f_code.co_filename in _PLUMBING:
        current = current.f_back
    if current is None:
        return False
    owner = owner_of(current)
    if owner is Owner.OTHERS:
        return _rule_of(str(current.f_globals.get("__name__")))
    return owner is Owner.LIBRARY


def _rule_of(module: str) -> bool:
    """What the table says of a module, or of the packages that it is in."""
    names = module.split(".")
    for count in range(len(names), 0, -1):
        rule = RULES.get(".".join(names[:count]))
        if rule is not None:
            return rule.shut_down
    return True
