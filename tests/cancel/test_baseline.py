"""The next work finds a clean thread, whatever the last one left, and however it ended."""

from __future__ import annotations

import asyncio
import contextvars
import ctypes
import signal
import socket
import ssl
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

import iowq
from support import DEADLINE, silent_server, wait_until, wait_until_blocked

VARIABLE = contextvars.ContextVar("VARIABLE", default="unset")


def _tracer(*_: object) -> None:
    pass


def _set_loop(loop: Any) -> None:
    asyncio._set_running_loop(loop)


def _mask() -> object:
    return signal.pthread_sigmask(signal.SIG_BLOCK, ())


#: What a work leaves, and how the next one sees it.
LEFT: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
    "tracer": (lambda: sys.settrace(_tracer), sys.gettrace),
    "profiler": (lambda: sys.setprofile(_tracer), sys.getprofile),
    "signal mask": (lambda: signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2]), _mask),
    "context": (lambda: VARIABLE.set("left"), VARIABLE.get),
    "running loop": (lambda: _set_loop(object()), asyncio._get_running_loop),
    "asyncgen hooks": (
        lambda: sys.set_asyncgen_hooks(firstiter=_tracer),
        sys.get_asyncgen_hooks,
    ),
    "origins": (
        lambda: sys.set_coroutine_origin_tracking_depth(7),
        sys.get_coroutine_origin_tracking_depth,
    ),
}


def _end(how: str) -> None:
    if how == "exception":
        raise LookupError
    while how == "cancel":
        pass


@pytest.mark.parametrize("how", ["return", "exception", "cancel"])
@pytest.mark.parametrize("what", LEFT)
def test_nothing_is_left_for_the_next_work(what: str, how: str) -> None:
    leave, see = LEFT[what]
    left = threading.Event()

    def work() -> None:
        leave()
        left.set()
        _end(how)

    with iowq.WorkQueue(1, on_error=lambda *_: None) as wq:
        before = wq.submit(see).result(DEADLINE)
        running = wq.enqueue(work)
        assert left.wait(DEADLINE)
        if how == "cancel":
            wq.cancel(running)
        wq.flush(DEADLINE)
        assert running.cancelled() == (how == "cancel")
        assert wq.submit(see).result(DEADLINE) == before


def test_what_an_initializer_sets_stays() -> None:
    with iowq.WorkQueue(1, initializer=sys.setprofile, initargs=(_tracer,)) as wq:
        wq.submit(sys.setprofile, None).result(DEADLINE)
        assert wq.submit(sys.getprofile).result(DEADLINE) is _tracer


def test_thread_locals_stay() -> None:
    """As in any pool: they are what an initializer is for."""
    local = threading.local()
    with iowq.WorkQueue(1) as wq:
        wq.submit(setattr, local, "connection", 1).result(DEADLINE)
        assert wq.submit(getattr, local, "connection").result(DEADLINE) == 1


def test_an_asynchronous_exception_that_comes_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set by code in C, as a work's last step: it is that work's, and no other's."""
    reported: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", reported.append)
    set_exception = ctypes.pythonapi.PyThreadState_SetAsyncExc
    with iowq.WorkQueue(1) as wq:
        for _ in range(50):
            thread = wq.submit(threading.get_ident).result(DEADLINE)
            error = ctypes.py_object(LookupError)
            wq.enqueue(set_exception, ctypes.c_ulong(thread), error)
            after = wq.submit(int, "7")
            assert after.result(DEADLINE) == 7
        assert len(wq._keys) == 0


def test_the_exception_of_a_cancelled_handshake_is_gone() -> None:
    context = ssl.create_default_context()
    threads: list[int] = []
    with silent_server() as address, iowq.WorkQueue(1) as wq:

        def shake_hands() -> None:
            threads.append(threading.get_native_id())
            with socket.create_connection(address) as raw:
                context.wrap_socket(raw, server_hostname="x")

        running = wq.submit(shake_hands)
        wait_until(lambda: threads)
        wait_until_blocked(threads[0])
        running.cancel()
        wq.flush(DEADLINE)
        assert wq.submit(sys.exc_info).result(DEADLINE) == (None, None, None)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_no_kind_of_cancel_leaves_an_exception() -> None:
    """Raised in a handler, in clean-up, in a generator: at many instants."""

    def works() -> None:
        while True:
            try:
                raise ValueError
            except ValueError:
                for _ in iter(int, 1):
                    try:
                        int("x")
                    except ValueError:
                        break

    with iowq.WorkQueue(1) as wq:
        for _ in range(60):
            running = wq.enqueue(works)
            wait_until(running.running)
            wq.cancel(running)
            assert wq.submit(sys.exc_info).result(DEADLINE) == (None, None, None)
            assert running.cancelled()
