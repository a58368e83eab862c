"""What cancel can do on this machine, and what it can't: measured, not assumed."""

from __future__ import annotations

import functools
import os
import signal as signals
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from queue import SimpleQueue
from typing import Any, NamedTuple

from .._cancel.canceller import overdue_listeners
from .._cancel.requirements import missing, warn_of
from .._executor.queue import WorkQueue

#: The newest patch of each CPython that all tests have run on.
TESTED = ((3, 10, 13), (3, 11, 7), (3, 12, 1), (3, 13, 18), (3, 14, 10), (3, 15, 2))

#: How long what is cancelled may take to end, before it counts as not ended.
PATIENCE = 2.0


class CancelSupport(NamedTuple):
    """What cancel can end; :attr:`problems` says what not, and why, as far as that is known."""

    system_calls: bool
    """Blocked system calls, made by the interpreter and by known libraries."""
    python_code: bool
    """Code that computes."""
    waits: bool
    """Waits for other threads: for locks, conditions, items, threads."""
    problems: tuple[str, ...]
    """What was not ended, and what is missing, in words; empty if nothing is."""
    notes: tuple[str, ...]
    """What else is to be known: that nobody has tried this version, say."""


# ---- a hidden worker, really interrupted

#: Code that is nobody's: that of this package isn't interrupted.
_CODE = """
def loop(turns):
    while turns:
        pass

def enter(lock):
    with lock:
        pass
"""


class _Trial(NamedTuple):
    """Something to be cancelled."""

    field: str
    """Of CancelSupport."""
    what: str
    block: Callable[[], object]


@contextmanager
def _trials() -> Iterator[list[_Trial]]:
    """What blocks until the end of the `with`."""
    names: dict[str, Any] = {}
    exec(compile(_CODE, "<cancel_support>", "exec"), names)
    loop, enter = names["loop"], names["enter"]
    turns, (read_end, write_end) = [True], os.pipe()
    locks: list[Any] = [threading.Lock(), threading.Lock(), threading.RLock()]
    event = threading.Event()
    items: SimpleQueue[None] = SimpleQueue()
    thread = threading.Thread(target=event.wait, name="iowq-cancel-support", daemon=True)
    thread.start()
    for lock in locks:
        lock.acquire()
    try:
        yield [
            _Trial("system_calls", "os.read", lambda: os.read(read_end, 1)),
            _Trial("python_code", "a loop", lambda: loop(turns)),
            _Trial("waits", "Lock.acquire", locks[0].acquire),
            _Trial("waits", "with lock", lambda: enter(locks[1])),
            _Trial("waits", "RLock.acquire", lambda: enter(locks[2])),
            _Trial("waits", "Condition.wait", event.wait),
            _Trial("waits", "SimpleQueue.get", items.get),
            _Trial("waits", "Thread.join", thread.join),
        ]
    finally:
        turns.clear()
        os.close(write_end)
        for lock in locks:
            lock.release()
        items.put(None)
        event.set()
        thread.join()
        os.close(read_end)


def _wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition() and time.monotonic() < end:
        time.sleep(0.0002)


def _not_ended() -> list[_Trial]:
    """Has a hidden worker block in each of the trials, and cancels it; returns which go on."""
    with _trials() as trials:
        queue = WorkQueue(len(trials), name="iowq-cancel-support", on_error=lambda *_: None)
        works = [(trial, queue.enqueue(trial.block)) for trial in trials]
        _wait_for(lambda: all(work.running() for _, work in works))
        queue.cancel_all()
        _wait_for(lambda: all(work.done() for _, work in works))
        failed = [trial for trial, work in works if not work.cancelled()]
    queue.close()
    return failed


def _untested() -> list[str]:
    name, version = sys.implementation.name, sys.version_info[:3]
    newest = next((tested for tested in TESTED if tested[:2] == version[:2]), None)
    if name == "cpython" and newest is not None and version <= newest:
        return []
    tried = ", ".join(".".join(map(str, tested)) for tested in TESTED)
    here = ".".join(map(str, version))
    return [f"nobody has tried {name} {here}: all tests have run on CPython up to {tried}"]


@functools.cache
def cancel_support() -> CancelSupport:
    """Returns what cancel can do here. Tried once, in some milliseconds, by a hidden queue."""
    problems = missing()
    try:
        failed = _not_ended()
    except OSError as error:  # no signal is free, or no thread
        problems.append(f"there can be no queue to try it: {error}")
        failed = [_Trial(field, "", int) for field in ("system_calls", "python_code", "waits")]
    else:
        problems += [f"{trial.what} is not ended by cancel" for trial in failed]
    fields = {trial.field for trial in failed}
    return CancelSupport(
        system_calls="system_calls" not in fields,
        python_code="python_code" not in fields,
        waits="waits" not in fields,
        problems=tuple(problems),
        notes=tuple(_untested()),
    )


# ---- a work that doesn't end


@functools.cache
def say_when_overdue(signal: int) -> None:
    """Tries what cancel can do, and warns: a work has not ended some seconds after its cancel.

    Returns at once; once for each signal that interrupts.
    """
    threading.Thread(target=_say, args=(signal,), name="iowq-cancel-support", daemon=True).start()


def _say(signal: int) -> None:
    handler = signals.getsignal(signal)
    if handler not in (None, signals.SIG_DFL):  # what Python says of a handler in C
        warn_of([f"signal {signal} has another handler by now: {handler!r}"], 1)
    with suppress(RuntimeError):  # the interpreter exits: there are no queues any more
        warn_of(cancel_support().problems, 1)


overdue_listeners.append(say_when_overdue)
