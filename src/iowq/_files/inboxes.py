"""Which loop runs, and where it finds the operations that have completed for it: see inbox.c."""

from __future__ import annotations

import asyncio
import sys
import threading
import weakref
from typing import Any

from .._types import Inbox

_lock = threading.Lock()
_inboxes: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Inbox] = weakref.WeakKeyDictionary()
_of_ended_runs: weakref.WeakSet[Inbox] = weakref.WeakSet()


def inbox_of(loop: asyncio.AbstractEventLoop) -> Inbox:
    """Returns the one of asyncio's loop that runs on the calling thread."""
    return _inboxes.get(loop) or _make(loop)


def _make(loop: asyncio.AbstractEventLoop) -> Inbox:
    inbox = Inbox()
    loop.add_reader(inbox.fileno(), inbox.drain)
    discard_others()
    with _lock:
        _inboxes[loop] = inbox
    return inbox


def discard_others() -> None:
    """Drops what has completed for loops that have ended."""
    with _lock:
        ended = [inbox for loop, inbox in _inboxes.items() if loop.is_closed()]
        ended += _of_ended_runs
    for inbox in ended:
        inbox.discard()


def abandon(inbox: Inbox) -> None:
    """A run of trio's has ended, which nobody else can tell; operations of its may be under way."""
    with _lock:
        _of_ended_runs.add(inbox)
    discard_others()


def in_trio() -> bool:
    """Whether a task of trio's calls; a loop of asyncio's may run on the same thread."""
    sniffio: Any = sys.modules.get("sniffio")
    return sniffio is not None and sniffio.thread_local.name == "trio"
