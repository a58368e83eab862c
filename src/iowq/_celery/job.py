"""One task on its way through the pool."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from billiard.einfo import ExceptionInfo
from celery.exceptions import Terminated
from celery.worker.request import Request

from .._cancel.policy import why_it_goes_on
from .._work.work import Cancel, Cancelled, Work
from . import task_code
from .limits import LOGGER, HardLimitReached, Limits, is_past

if TYPE_CHECKING:
    from celery.concurrency.base import BasePool
    from kombu.asynchronous.timer import Entry

    from .loop_calls import LoopCalls

#: Seconds that a task has to end after its hard limit, before it is given up.
PATIENCE = 5.0


class Callbacks(NamedTuple):
    """How Celery's request is told of its task; each may be missing."""

    accepted: Callable[[int, float], object] | None = None
    """With the thread that runs it, and since when, by ``time.monotonic``."""
    succeeded: Callable[[Any], object] | None = None
    """With what the call has returned: it may be told of the task's exception there."""
    failed: Callable[[ExceptionInfo], object] | None = None
    """With what the call has raised."""
    timed_out: Callable[[bool, float], object] | None = None
    """With whether that was the soft limit, and the limit in seconds."""


class Job:
    """What Celery knows as the result of the pool's ``apply_async``, and terminates.

    :param jobs: those that have not ended, of which it is one from now on.
    :param loop: which makes the callbacks.
    """

    f: Work  # by the name that it has in Celery's thread pool

    def __init__(
        self,
        jobs: set[Job],
        loop: LoopCalls,
        call: Callable[[], Any],
        callbacks: Callbacks,
        limits: Limits,
    ) -> None:
        self.process = os.getpid()
        self._jobs = jobs
        self._loop = loop
        self._call = call
        self._callbacks = callbacks
        self._limits = limits
        self._started = math.inf
        self._is_in_code = False  # the task's own
        self._alarm: Entry | None = None
        self._signum: int | None = None  # that it is terminated by
        owner = getattr(callbacks.accepted, "__self__", None)
        self._request = owner if isinstance(owner, Request) else None
        jobs.add(self)

    def is_terminated(self) -> bool:
        """Whether somebody wants its end."""
        return self._signum is not None

    # ---- on a worker

    def run(self) -> None:
        """The work."""
        if self._is_revoked():
            self.discard()
            return
        self._started = time.monotonic()
        self._loop.leave(self._accept, threading.get_native_id())
        try:
            with task_code.of(self):
                result = self._call()
        except HardLimitReached:
            self._loop.leave(self._time_out)
        except Cancelled:
            error = self._how_it_was_terminated() if self.is_terminated() else ExceptionInfo()
            self._loop.leave(self._fail, error)
        except BaseException:
            self._loop.leave(self._fail, ExceptionInfo())
        else:
            self._loop.leave(self._succeed, result)

    def _is_revoked(self) -> bool:
        """Whether it was revoked, or has expired, while it waited; if so, its request says so."""
        try:
            return self._request is not None and bool(self._request.revoked())
        except Exception as error:  # the backend's, say
            LOGGER.exception("A revoked task could not be announced: %r", error)
            return True

    @contextmanager
    def limited(self) -> Iterator[None]:
        """What is inside is the task's own code, with its time limits."""
        self._is_in_code = True
        try:
            with self._limits.kept(self._started):
                yield
        finally:
            self._is_in_code = False
            if is_past(self._limits.soft, self._started):
                self._loop.leave(_call_back, self._callbacks.timed_out, True, self._limits.soft)

    # ---- on the event loop's thread

    def terminate(self, signum: int) -> None:
        """Ends the task, be it pending or running; called by its request, maybe twice."""
        self._signum = signum
        queue = self.f._queue
        if queue is not None and queue.cancel(self.f) is Cancel.OK:
            self._fail(self._how_it_was_terminated())

    def cancel(self, pool: BasePool) -> None:
        """Does what a cold shutdown does with the requests that it knows to be active."""
        if self._request is None:
            self.terminate(signal.SIGTERM)
        else:
            self._request.cancel(pool, emit_retry=not self._request.task.acks_late)

    def forget_callbacks(self) -> None:
        """Has nobody told of its end."""
        self._callbacks = Callbacks()

    def discard(self) -> None:
        """It is none of the pool's jobs any more."""
        self._jobs.discard(self)
        if self._alarm is not None:
            self._alarm.cancel()

    def _accept(self, thread: int) -> None:
        if self._limits.hard:
            self._alarm = self._loop.call_later(self._limits.hard + PATIENCE, self._give_up)
        _call_back(self._callbacks.accepted, thread, self._started)

    def _give_up(self) -> None:
        """Tells of the limit of a task that can't be ended, and has its worker still."""
        if self._is_in_code:
            reason = why_it_goes_on(self.f) or "it swallows what ends it, or is not in Python"
            LOGGER.error("A task goes on after its hard time limit: %r: %s", self._request, reason)
            self._time_out()
            self.forget_callbacks()

    def _time_out(self) -> None:
        self.discard()
        _call_back(self._callbacks.timed_out, False, self._limits.hard)

    def _succeed(self, result: object) -> None:
        self.discard()
        _call_back(self._callbacks.succeeded, result)

    def _fail(self, error: ExceptionInfo) -> None:
        self.discard()
        _call_back(self._callbacks.failed, error)

    def _how_it_was_terminated(self) -> ExceptionInfo:
        """What prefork tells of a process that was killed."""
        try:
            raise Terminated(self._signum or signal.SIGTERM)
        except Terminated:
            return ExceptionInfo()


def _call_back(callback: Callable[..., object] | None, *args: object) -> None:
    if callback is None:
        return
    try:
        callback(*args)
    except MemoryError:
        raise
    except Exception as error:
        LOGGER.exception("Pool callback raised exception: %r", error)
