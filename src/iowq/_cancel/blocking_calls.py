"""The interpreter's own blocking calls, out of which ``Cancelled`` comes.

See ``blocking_calls.c``.
"""

from __future__ import annotations

import _io
import _signal  # type: ignore[import-not-found]
import _socket
import fcntl
import os
import select
import time
from collections.abc import Iterator

from .._native import lib
from . import connections

_SOCKET = (
    *("_accept", "connect", "recv", "recv_into", "recvfrom", "recvfrom_into", "recvmsg"),
    *("recvmsg_into", "send", "sendall", "sendto", "sendmsg"),
)
_OS = (
    *("read", "readv", "pread", "preadv", "write", "writev", "pwrite", "pwritev", "open"),
    *("sendfile", "splice", "wait", "wait3", "wait4", "waitid", "waitpid"),
)


def _calls() -> Iterator[tuple[object, str]]:
    """The types and modules, and the names of their functions."""
    for owner, names in (
        (_socket.socket, _SOCKET),
        (os, _OS),
        (_io, ("open",)),
        (_io.FileIO, ("read", "readinto", "readall", "write")),
        (select, ("select",)),
        (type(select.poll()), ("poll",)),
        (select.epoll, ("poll",)),
        (_signal, ("sigwait", "sigwaitinfo", "sigtimedwait")),
        (time, ("sleep",)),
        (fcntl, ("fcntl", "flock", "lockf")),
    ):
        for name in names:
            yield owner, name


def hook() -> None:
    """Hooks them all, once for the process; what can't be hooked raises OSError, as it did."""
    for number, (owner, name) in enumerate(_calls()):
        lib.iowq_hook_call(number, id(owner), name.encode(), id(connections.call_ended))
