"""What a worker does now."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .._cancel.policy import why_it_goes_on
from .._native import ffi, lib

if TYPE_CHECKING:
    from .._work.work import Work


class Worker(NamedTuple):
    """One worker at one instant."""

    thread: int
    """The thread's number in the kernel, as ``ps -L`` and ``top -H`` show it."""
    work: Work | None
    """What it runs; None: it waits for work."""
    seconds: float | None
    """How long it has run that, to some milliseconds."""
    blocked_in: str | None
    """The system call that it is blocked in; None: it computes, or waits for the GIL."""
    cancelling: bool
    """Whether its work is to be ended."""
    shielded: bool
    """Whether nothing may interrupt its work now."""
    goes_on: str | None
    """Why its work, which is to be ended, goes on, if that has been for a second."""

    def __str__(self) -> str:
        if self.work is None:
            return f"thread {self.thread}: idle"
        notes = [self.blocked_in or "running", f"{self.seconds:.1f} s"]
        notes += ["being cancelled"] * self.cancelling + ["shielded"] * self.shielded
        notes += [f"goes on since it {self.goes_on}"] if self.goes_on else []
        return f"thread {self.thread}: {self.work!r}: {', '.join(notes)}"


def read_worker(thread: int, work: Work | None, cancelling: bool, shielded: bool) -> Worker:
    """Returns what is to be known about one worker."""
    if work is None:
        return Worker(thread, None, None, None, False, False, None)
    now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    started = lib.iowq_started(id(work))
    seconds = max(0, now - started) / 1e9 if started else 0.0
    return Worker(
        thread=thread,
        work=work,
        seconds=seconds,
        blocked_in=_blocked_in(thread),
        cancelling=bool(cancelling),
        shielded=bool(shielded),
        goes_on=why_it_goes_on(work) if cancelling else None,
    )


def _blocked_in(thread: int) -> str | None:
    call: Any = ffi.new("struct io_wq_blocked_call *")
    if lib.io_wq_get_blocked_call(thread, call) != 1:
        return None
    if call.name == ffi.NULL:
        return f"system call {call.nr}"
    name = bytes(ffi.string(call.name)).decode()  # type: ignore[arg-type]
    if name == "futex":
        return "a wait for a lock (futex)"
    if not call.has_descriptor:
        return f"{name}()"
    return f"{name}(fd={call.args[0]} -> {_target(call.args[0])})"


def _target(fd: int) -> str:
    """What a descriptor of this process leads to; another thread may close it any time."""
    try:
        target = str(Path(f"/proc/self/fd/{fd}").readlink())
        if not target.startswith("socket:"):
            return target
        with socket.socket(fileno=os.dup(fd)) as copy:
            return f"socket {_address(copy)}"
    except OSError as error:
        return error.strerror or "?"


def _address(sock: socket.socket) -> str:
    """The address of a socket's peer, or its own if it has none."""
    try:
        address = sock.getpeername()
    except OSError:
        address = sock.getsockname()
    if isinstance(address, tuple):
        return ":".join(map(str, address[:2]))
    return (address.decode() if isinstance(address, bytes) else str(address)) or "unnamed"
