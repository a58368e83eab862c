"""Operations that a task of trio's waits for. This module alone needs trio."""

from __future__ import annotations

import errno
from collections.abc import Generator
from typing import Any, Generic, TypeVar

import trio
from trio.lowlevel import RunVar, spawn_system_task, wait_readable

from .._types import Inbox, Operation
from .inboxes import abandon, discard_others

T = TypeVar("T")

_inbox: RunVar[Inbox] = RunVar("iowq's inbox")


class TrioFuture(Generic[T]):
    """An operation under way, to be awaited by tasks of the run that it was begun in."""

    def __init__(self, operation: Operation[T]) -> None:
        self._operation = operation
        self._ended = trio.Event()
        self._result: T | None = None
        self._error: BaseException | None = None

    def done(self) -> bool:
        """Whether the operation has ended."""
        return self._ended.is_set()

    def set_result(self, result: T) -> None:
        """Wakes who awaits it."""
        self._result = result
        self._ended.set()

    def set_exception(self, error: BaseException) -> None:
        """Wakes who awaits it."""
        self._error = error
        self._ended.set()

    def __await__(self) -> Generator[Any, Any, T]:
        """Waits for the end, and is a checkpoint. Cancel ends the operation, if it can be ended."""
        return self._wait().__await__()

    async def _wait(self) -> T:
        if self.done():  # what came from a stream is not to be lost
            await trio.lowlevel.cancel_shielded_checkpoint()
        else:
            await self._wait_until_done()
        if self._error is not None:
            raise self._error
        return self._result  # type: ignore[return-value]

    async def _wait_until_done(self) -> None:
        try:
            await self._ended.wait()
        except trio.Cancelled:
            if self.done():
                return  # since it was cancelled
            if not self._operation.cancel():
                raise  # a disk's can't be ended: it is abandoned
            with trio.CancelScope(shield=True):
                await self._ended.wait()
            if self._was_cancelled():
                raise

    def _was_cancelled(self) -> bool:
        return isinstance(self._error, OSError) and self._error.errno == errno.ECANCELED


def submit(operation: Operation[T]) -> TrioFuture[T]:
    """Has a worker do the operation, without a try."""
    future = TrioFuture(operation)
    operation.submit(_get_inbox(), future, 0)
    return future


def _get_inbox() -> Inbox:
    """Returns the one of the current run."""
    try:
        return _inbox.get()
    except LookupError:
        discard_others()
        inbox = Inbox()
        spawn_system_task(_drain, inbox, name="iowq's completions")
        _inbox.set(inbox)
        return inbox


async def _drain(inbox: Inbox) -> None:
    """Wakes the tasks whose operations have completed, as many as there are at a time."""
    try:
        while True:
            await wait_readable(inbox.fileno())
            inbox.drain()
    finally:
        abandon(inbox)
