"""The queue: ``create / enqueue / enqueue_hashed / flush / cancel`` for Python."""

from __future__ import annotations

import errno
import math
import os
import queue
import re
import signal as signals
import sys
import time
from collections.abc import Callable, Hashable, Iterable
from concurrent.futures.thread import BrokenThreadPool
from typing import Any, Literal, NamedTuple, NoReturn

from .._arguments import check_callable, check_int, check_names, check_seconds, deadline_after
from .._cancel import canceller
from .._cancel.interruption import interruption
from .._native import ffi, lib
from .._report.stats import Stats, get_stats
from .._report.topology import Topology, read_topology
from .._report.worker import Worker, read_worker
from .._types import KeyTable, WorkBase
from .._work.future import LOGGER
from .._work.work import Cancel, Work, drop, raise_deferred
from . import affinity, callbacks, first_queue, lifecycle, registry, watching  # noqa: F401
from .admission import Admission
from .chain import Chain
from .executor import QueueExecutor
from .views import ExecutorView

#: A signal that arrives between the interpreter's last check and the wait would
#: be seen when the wait ends. So no wait is longer than this.
_SLICE_MS = 1000
_UNSIGNED_MAX = 0xFFFFFFFF
_IDLE_TIMEOUT_MAX = _UNSIGNED_MAX // 1000


class BrokenWorkQueue(BrokenThreadPool):
    """The queue's initializer failed: it takes no more work."""


class WorkQueueFull(queue.Full):
    """The queue has as many pending works as it may have (``max_pending``)."""


class MaxWorkers(NamedTuple):
    """How many workers each NUMA node may have."""

    concurrency: int
    """For bounded work."""
    unbounded: int
    """For unbounded work."""


class WorkQueue(QueueExecutor):
    """A queue of callables and the workers that run them.

    :param concurrency: workers per NUMA node at most, 1 to 32768. They are
        created as work blocks, and end when they are no longer needed. Default:
        the CPUs plus 4, at most 32, as for ``ThreadPoolExecutor``.
    :param name: begins the threads' names.
    :param initializer: called once in each worker before its first work, as part of it.
        If it raises, the queue is broken: that work and pending work is cancelled, its
        futures and enqueueing raise :exc:`BrokenWorkQueue`.
    :param unbounded: the same as concurrency for works of :attr:`unbounded`. Default:
        32768, or what the system allows.
    :param nodes: the NUMA nodes, by the kernel's numbers, that the workers run on.
        Default: all that the calling thread may run on.
    :param cpus: the CPUs that they run on, of these nodes'. Default: all.
    :param max_pending: how many works may be pending, without those that works of this
        queue enqueue. Default: no limit.
    :param full_timeout: seconds that enqueueing waits, if there are as many, before it
        raises :exc:`WorkQueueFull`; 0: it doesn't wait; None: no limit.
    :param idle_timeout: seconds after which an idle worker ends; the last one
        of a node stays.
    :param on_error: called on the worker as ``on_error(work, exception)`` for
        what a work raises; default: ``sys.unraisablehook``.
    :param cancel_signal: the signal that interrupts running work; default: a
        free real-time signal.
    :param interrupt: where cancel ends running work: ``"anywhere"``, or only where
        it is ``"blocked"``, in a system call or waiting for another thread.
    :param interruptible: packages whose code is ended anywhere, as the user's own is, though
        they are installed where ``pip`` puts what others wrote.
    :param max_workers: what ``ThreadPoolExecutor`` calls the concurrency.
    :param thread_name_prefix: what it calls the name.

    Its workers' stacks have the size that :func:`threading.stack_size` has set by now.
    As a context manager it is closed at the end, which waits for its work.
    """

    def __init__(
        self,
        concurrency: int | None = None,
        name: str = "iowq",
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        unbounded: int | None = None,
        nodes: Iterable[int] | None = None,
        cpus: Iterable[int] | None = None,
        max_pending: int | None = None,
        full_timeout: float | None = None,
        idle_timeout: float = 5.0,
        on_error: Callable[[Work, BaseException], object] | None = None,
        cancel_signal: int | None = None,
        interrupt: Literal["anywhere", "blocked"] = "anywhere",
        interruptible: Iterable[str] = (),
        max_workers: int | None = None,
        thread_name_prefix: str = "",
    ) -> None:
        if hasattr(self, "_wq"):
            raise RuntimeError("a WorkQueue is initialised once")
        self._concurrency = _check_concurrency(concurrency, max_workers)
        self._unbounded = _check_limit("unbounded", unbounded, lib.IO_WQ_CONCURRENCY_MAX)
        self._max_pending = _check_limit("max_pending", max_pending, _UNSIGNED_MAX)
        self._full_timeout = (
            None if full_timeout is None else check_seconds("full_timeout", full_timeout)
        )
        self._name = (
            _check_name("thread_name_prefix", thread_name_prefix)
            if thread_name_prefix
            else _check_name("name", name)
        )
        self._idle_timeout_ms = _check_idle_timeout(idle_timeout)
        if initializer is not None:
            check_callable("initializer", initializer)
        if on_error is not None:
            check_callable("on_error", on_error)
        self._initializer = initializer  # type: ignore[assignment]  # it may return anything
        self._initargs = _check_initargs(initargs)
        self._on_error = on_error
        if cancel_signal is not None:
            check_int("cancel_signal", cancel_signal, 1, signals.NSIG - 1)
        self._cancel_signal = cancel_signal or 0
        if interrupt not in ("anywhere", "blocked"):
            raise ValueError(f"interrupt must be 'anywhere' or 'blocked', not {interrupt!r}")
        self._interrupt_anywhere = interrupt == "anywhere"
        self._interruptible = check_names("interruptible", interruptible)
        self._broken = False
        self._cpus: frozenset[int] | None = None
        self._create()
        self.set_affinity(nodes, cpus)
        lifecycle.refuse_if_exiting()
        first_queue.warn_once()

    def _create(self) -> None:
        self._address = 0
        canceller.install()
        self._keys = KeyTable()
        token = registry.new_token()
        wq = lib.iowq_create(
            self._concurrency,
            self._unbounded,
            self._max_pending,
            self._name.encode(),
            self._idle_timeout_ms,
            self._cancel_signal,
            self._interrupt_anywhere,
            token,
        )
        if wq == ffi.NULL:
            _raise_create_error(ffi.errno, self._cancel_signal)
        self._owner: list[object] = []  # of wq: see iowq_own
        if lib.iowq_own(wq, id(self._owner)):
            raise MemoryError
        self._admission = Admission(wq)
        self._wq, self._address = wq, int(ffi.cast("uintptr_t", wq))
        self._machine: Topology | None = None
        registry.register(self, token)
        if self._cpus is not None:
            affinity.set_cpus(self._wq, self._cpus)

    # ---- works

    @property
    def _queue(self) -> WorkQueue:
        return self

    def _narrow(self, **properties: Any) -> ExecutorView:
        return ExecutorView(self, **properties)

    def _new_chain(self, outer: QueueExecutor) -> Chain:
        return Chain(outer, key=object())

    def _refused(self, work: Work, error: int) -> NoReturn:
        """A work could not be enqueued."""
        self._give_up(work)
        if error == -errno.EBUSY:
            raise WorkQueueFull(f"{self._max_pending} works are pending")
        if error != -errno.ESHUTDOWN:
            raise OSError(-error, f"cannot start a worker: {os.strerror(-error)}")
        if self._broken:
            raise self._broken_error()
        raise RuntimeError("cannot schedule new futures or works after shutdown")

    def _give_up(self, work: Work) -> None:
        """Forgets a work that the queue has not taken."""
        if work.pending():  # else the core has completed it as cancelled
            work._state = drop(work)

    def _broken_error(self) -> BrokenWorkQueue:
        return BrokenWorkQueue("the queue's initializer has failed: it takes no more work")

    # ---- flush, cancel

    def flush(self, timeout: float | None = None) -> None:
        """Waits until all work enqueued before this call has finished.

        :param timeout: seconds; None: no limit.
        :raises TimeoutError: when that time is up.
        :raises RuntimeError: when called by a work of this queue.
        """
        self._flush("flush()", deadline_after(timeout))

    def _flush(self, caller: str, deadline: float | None) -> None:
        # A signal's handler may raise after any call: the flush ends with its memory.
        flush = ffi.gc(ffi.new("struct io_wq_flush *"), lib.io_wq_flush_end)
        if lib.io_wq_flush_start(self._wq, flush):
            raise RuntimeError(f"{caller} by a work of this queue would wait for itself")
        _wait(lambda ms: lib.iowq_flush_wait(flush, ms), deadline)

    def cancel(self, work: Work) -> Cancel:
        """Cancels one work: see :class:`Cancel` for what the answers mean."""
        if not isinstance(work, WorkBase):
            raise TypeError(f"work must be a Work, not {type(work).__name__}: {work!r}")
        if work._queue is not self:
            return Cancel.NOTFOUND
        answer = Cancel(lib.iowq_cancel(self._wq, id(work)))
        raise_deferred()
        return answer

    def cancel_key(self, key: Hashable) -> Cancel:
        """Cancels all work of one key. OK if any was pending, else RUNNING or NOTFOUND."""
        answer = Cancel(self._cancel_key(key))
        raise_deferred()
        return answer

    def cancel_all(self) -> None:
        """Cancels all work that is pending or running; the queue goes on."""
        lib.iowq_cancel_all(self._wq)
        raise_deferred()

    def cancel_if(self, predicate: Callable[[Work], object]) -> Cancel:
        """Cancels the works, pending or running, for which predicate(work) is true.

        It is asked about all works first; if it raises, none is cancelled. OK if
        any was pending, else RUNNING or NOTFOUND.
        """
        check_callable("predicate", predicate)
        # Pending ones first: a work that starts meanwhile is seen twice, not never.
        works = dict.fromkeys(self._pending())
        works.update({work: None for _, work, _, _ in self._list(lib.iowq_get_workers) if work})
        chosen = [work for work in works if predicate(work)]
        return min((self.cancel(work) for work in chosen), default=Cancel.NOTFOUND)

    def _pending(self) -> list[Work]:
        return [work for _, work, _, _ in self._list(lib.iowq_get_pending)]

    def _list(self, get: Callable[[Any, int], int]) -> list[tuple[int, Work, bool, bool]]:
        entries: list[tuple[int, Work, bool, bool]] = []
        if get(self._wq, id(entries)):
            raise MemoryError
        return entries

    def workers(self) -> list[Worker]:
        """Returns, for each worker, what it runs now and what that is blocked in."""
        entries = self._list(lib.iowq_get_workers)
        return [read_worker(*entry) for entry in entries if entry[0]]  # it has a thread

    def max_workers(
        self, concurrency: int | None = None, unbounded: int | None = None
    ) -> MaxWorkers:
        """Changes how many workers each node may have; returns what it was before.

        Running work is not disturbed: a worker too many ends after its work.
        (``io_wq_max_workers``.)
        """
        limits = {"concurrency": concurrency, "unbounded": unbounded}
        new = [_check_limit(*limit, lib.IO_WQ_CONCURRENCY_MAX) for limit in limits.items()]
        values: Any = ffi.new("unsigned[2]", new)
        error = lib.io_wq_max_workers(self._wq, values)
        if error:
            raise OSError(-error, os.strerror(-error))
        self._concurrency = new[0] or self._concurrency
        self._unbounded = new[1] or self._unbounded
        return MaxWorkers(*values)

    def set_affinity(
        self, nodes: Iterable[int] | None = None, cpus: Iterable[int] | None = None
    ) -> None:
        """Changes which nodes and CPUs the workers run on; running work is moved, too.

        Without arguments: all that the thread that made the queue could run on then.
        (``io_wq_cpu_affinity``.)

        :param nodes: by the kernel's numbers.
        :param cpus: of these nodes'.
        """
        if nodes is cpus is self._cpus is None:
            return
        chosen = None
        if nodes is not None or cpus is not None:
            chosen = affinity.choose_cpus(self._all_nodes(), nodes, cpus)
        affinity.set_cpus(self._wq, chosen)
        self._cpus = chosen

    def _all_nodes(self) -> Topology:
        if self._machine is None:
            self._machine = read_topology(lib.io_wq_get_topology(self._wq))
        return self._machine

    # ---- the end

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Refuses new work; what is pending still runs, and then the workers end.

        :param wait: until that has come to pass. Ctrl-C meanwhile cancels all work.
        :param cancel_futures: cancel what is pending; what runs goes on.
        :raises RuntimeError: when it would wait for the work that calls it.
        """
        self._closed = True
        lib.io_wq_exit_start(self._wq)
        if cancel_futures:
            lib.iowq_cancel_pending(self._wq)
            raise_deferred()
        if wait:
            with self._cancelling_if_interrupted():
                self._flush("shutdown()", None)
                _wait(lambda ms: lib.iowq_stop(self._wq, ms), None)

    def close(self) -> None:
        """:meth:`shutdown`, by its name in most other modules."""
        self.shutdown()

    def _cancel_works(self) -> None:
        self.cancel_all()

    # ---- what one may ask

    @property
    def name(self) -> str:
        """What the names of this queue's threads begin with."""
        return self._name

    @property
    def cancel_signal(self) -> int:
        """The signal that interrupts this queue's running work."""
        return lib.io_wq_cancel_signal(self._wq)

    @property
    def topology(self) -> Topology:
        """The NUMA nodes that this queue's workers run on, with the CPUs they may use."""
        return self._all_nodes().restricted_to(self._cpus)

    def stats(self) -> Stats:
        """Returns the queue's counts now."""
        return get_stats(self._wq)

    def __repr__(self) -> str:
        state = "broken" if self._broken else "closed" if self._closed else "open"
        return f"<{type(self).__name__} {self._name!r} {state}, concurrency {self._concurrency}>"

    # ---- called by threads, forks and the interpreter's exit

    def _initialize_worker(self) -> bool:
        if self._initializer is None:
            return True
        try:
            self._initializer(*self._initargs)
            return True
        except BaseException:
            self._broken = True
            try:
                LOGGER.critical("Exception in initializer:", exc_info=True)
            finally:
                lib.io_wq_exit_start(self._wq)
                lib.iowq_cancel_pending(self._wq)
            return False

    def _after_fork(self) -> None:
        """The workers and the work stayed in the parent; the child starts empty."""
        if not self._closed and not self._broken:
            self._create()


def create(concurrency: int | None = None, **options: Any) -> WorkQueue:
    """Returns ``WorkQueue(concurrency, **options)`` (``io_wq_create``)."""
    return WorkQueue(concurrency, **options)


def _check_concurrency(concurrency: int | None, max_workers: int | None) -> int:
    if max_workers is not None:
        if concurrency is not None:
            raise TypeError("concurrency and max_workers are the same: give one of them")
        if check_int("max_workers", max_workers, -sys.maxsize, lib.IO_WQ_CONCURRENCY_MAX) <= 0:
            raise ValueError(f"max_workers must be greater than 0, not {max_workers!r}")
        return max_workers
    if concurrency is None:
        count_cpus: Callable[[], int | None] = getattr(os, "process_cpu_count", os.cpu_count)
        return min(32, (count_cpus() or 1) + 4)
    return check_int("concurrency", concurrency, 1, lib.IO_WQ_CONCURRENCY_MAX)


def _check_limit(name: str, value: int | None, most: int) -> int:
    """Returns value, or 0, which stands for no limit, if it is None."""
    return 0 if value is None else check_int(name, value, 1, most)


def _check_name(argument: str, name: object) -> str:
    if not isinstance(name, str):
        raise TypeError(f"{argument} must be a str, not {type(name).__name__}: {name!r}")
    if not name or re.search("[\0\ud800-\udfff]", name):
        raise ValueError(f"{argument} must not be empty, or contain NUL or surrogates: {name!r}")
    return name


def _check_initargs(initargs: object) -> tuple[Any, ...]:
    if not isinstance(initargs, Iterable):
        raise TypeError(f"initargs must be a tuple, not {type(initargs).__name__}: {initargs!r}")
    return tuple(initargs)


def _check_idle_timeout(idle_timeout: object) -> int:
    seconds = check_seconds("idle_timeout", idle_timeout)
    if not 0.001 <= seconds <= _IDLE_TIMEOUT_MAX:
        raise ValueError(
            f"idle_timeout must be from 0.001 to {_IDLE_TIMEOUT_MAX} seconds, not {idle_timeout!r}"
        )
    return int(seconds * 1000)


def _raise_create_error(error: int, cancel_signal: int) -> None:
    reason = os.strerror(error)
    if cancel_signal and error in (errno.EINVAL, errno.EBUSY):
        raise ValueError(f"cancel_signal {cancel_signal!r} cannot be used: {reason}")
    raise OSError(error, f"cannot create a queue: {reason}")


def _wait(wait_ms: Callable[[int], int], deadline: float | None) -> None:
    """Repeats a wait of the core until it succeeds, fails, or time is up.

    Between two of its turns the interpreter runs signal handlers: Ctrl-C works; and
    a work that waits for another queue's can be cancelled.
    """
    while True:
        left = math.inf if deadline is None else (deadline - time.monotonic()) * 1000
        result = wait_ms(int(min(_SLICE_MS, left + 1)) if left > 0 else 0)
        if result == 0:
            return
        if result == -errno.ETIMEDOUT and deadline is not None and time.monotonic() >= deadline:
            raise TimeoutError("the queue's work has not finished in time")
        if result not in (-errno.ETIMEDOUT, -errno.EINTR):
            raise OSError(-result, os.strerror(-result))
        if lib.io_wq_worker_claim():  # the caller is a work of another queue
            raise interruption()
