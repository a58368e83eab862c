"""Works for programs on anyio, whose event loop may be asyncio's or trio's.

``anyio.to_thread.run_sync`` takes no executor; :func:`run_sync` is that function for one::

    import anyio
    from iowq.anyio import run_sync

    with anyio.move_on_after(5):
        data = await run_sync(sock.recv, 4096, executor=wq)

This module alone needs anyio, 4.11 or newer.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from concurrent.futures import Future as BaseFuture
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
from anyio.lowlevel import RunVar, checkpoint_if_cancelled, current_token

from ._executor.admission import enqueue
from ._executor.executor import QueueExecutor

try:
    import sniffio
except ImportError:  # only trio needs it
    sniffio = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from typing_extensions import TypeVarTuple, Unpack  # typing's own from 3.11 on

    from ._executor.admission import Admission, Offer
    from ._work.work import Work

    Args = TypeVarTuple("Args")

T = TypeVar("T")

__all__ = ["run_sync"]


async def run_sync(
    func: Callable[[Unpack[Args]], T],
    *args: Unpack[Args],
    executor: Executor,
    abandon_on_cancel: bool = False,
) -> T:
    """Calls ``func(*args)`` in the executor, and returns what it returns.

    A queue that is full (``max_pending``) is waited for without blocking the event loop.

    When the calling task is cancelled, so is the work: it never starts, or it is ended where
    it is. The call ends after the work, clean-up included, so that nothing of it runs
    once the task has left its scope. What the work may still return or raise is dropped.

    :param executor: a queue, or ``wq.hashed(key)`` and the like. Any other executor will do,
        but if it can't end running work, a cancelled call waits until that is done.
    :param abandon_on_cancel: don't wait for the end of a work that is cancelled.
    :raises concurrent.futures.CancelledError: if somebody else has cancelled the work.
    """
    await checkpoint_if_cancelled()
    ended = anyio.Event()
    future = await _submit(executor, func, *args)
    future.add_done_callback(_waker(ended))
    try:
        await ended.wait()
    except BaseException:  # the loop's own kind of cancel, or Ctrl-C
        future.cancel()
        if not abandon_on_cancel:
            with anyio.CancelScope(shield=True):
                await ended.wait()
        raise
    return future.result()


async def _submit(
    executor: Executor, func: Callable[[Unpack[Args]], T], *args: Unpack[Args]
) -> BaseFuture[T]:
    context = _context()
    if not isinstance(executor, QueueExecutor):
        return executor.submit(context.run, func, *args)  # type: ignore[arg-type]
    future = executor._make_future(func, args, {}, context)
    await enqueue(executor, future, _wait)
    return future


def _context() -> Context:
    """The caller's, but for the variable that says which event loop runs: none does."""
    context = copy_context()
    if sniffio is not None:
        context.run(sniffio.current_async_library_cvar.set, None)
    return context


class _Mailbox:
    """Events to be set on one event loop, which is woken once for as many as have come by then.

    Nobody locks it: whoever puts one appends it first, and asks then whether the loop has
    been called; the loop first notes that it hasn't, and takes events then.
    """

    def __init__(self) -> None:
        self._call_soon = _call_soon()
        self._events: deque[anyio.Event] = deque()
        self._called_at = 0.0  # time.monotonic(); 0: the loop isn't called

    def put(self, event: anyio.Event) -> None:
        """Has the loop set an event. May be called by any thread."""
        self._events.append(event)
        if self._called_at and time.monotonic() < self._called_at + _PATIENCE:
            return
        self._call()

    def _call(self) -> None:
        self._called_at = time.monotonic()
        try:
            self._call_soon(self._deliver)
        except RuntimeError:
            pass  # the loop has ended, and with it who would wait
        except BaseException:
            self._called_at = 0.0
            raise

    def _deliver(self) -> None:
        """On the loop: all that are there by now, and no more, so that others have their turn."""
        self._called_at = 0.0
        try:
            for _ in range(len(self._events)):
                self._events[0].set()  # may be repeated
                self._events.popleft()
        finally:
            if self._events and not self._called_at:
                self._call()


#: Seconds after which a loop that was called is called again: a signal's handler may have
#: had it forget that.
_PATIENCE = 0.1
_mailbox: RunVar[_Mailbox] = RunVar("iowq's mailbox")


def _waker(ended: anyio.Event) -> Callable[[BaseFuture[Any]], None]:
    """Returns what sets an event of the running loop when a future is done."""
    try:
        mailbox = _mailbox.get()
    except LookupError:
        mailbox = _Mailbox()
        _mailbox.set(mailbox)
    return lambda _future: mailbox.put(ended)


def _call_soon() -> Callable[[Callable[[], object]], None]:
    """Returns what has the running loop call something, and may itself be called by any thread.

    Not ``anyio.from_thread.run_sync``, which waits for the loop: it may be the loop's own
    thread that cancels a work, or waits for the queue to end.
    """
    loop: Any = current_token().native_token
    trios = getattr(loop, "run_sync_soon", None)
    return trios or loop.call_soon_threadsafe  # type: ignore[no-any-return]


async def _wait(admission: Admission, work: Work, offer: Offer, timeout: float | None) -> int:
    """As :meth:`Admission.wait`, without blocking the event loop."""
    call_soon = _call_soon()
    woken = anyio.Event()

    def wake() -> bool:
        try:
            call_soon(lambda: woken.set())  # the one that woken is by then
        except RuntimeError:  # the loop has ended
            return False
        return True

    async def woken_within(seconds: float) -> bool:
        nonlocal woken
        with anyio.move_on_after(seconds):
            await woken.wait()
        was_woken = woken.is_set()
        if was_woken:
            woken = anyio.Event()
        return was_woken

    return await admission.wait_async(work, offer, timeout, wake, woken_within)
