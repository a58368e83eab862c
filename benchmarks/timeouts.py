"""Time limits for any call: what ends what, and what a limit costs that isn't reached.

Compares with func-timeout, timeout-decorator and stopit:
``pip install func-timeout timeout-decorator stopit``.
"""

from __future__ import annotations

import _thread
import argparse
import functools
import platform
import socket
import statistics
import threading
import time
from collections.abc import Callable

import func_timeout
import stopit
import timeout_decorator

import iowq

Body = Callable[[], object]
#: Calls a body with a limit of so many seconds.
Limit = Callable[[float, Body], object]

LIMIT = 1.0  # stopit.SignalTimeout knows whole seconds
#: Seconds after which the thing ends by itself.
GIVE_UP = 2.0


def _by_iowq(seconds: float, body: Body) -> object:
    with iowq.timeout(seconds):
        return body()


def _by_func_timeout(seconds: float, body: Body) -> object:
    return func_timeout.func_timeout(seconds, body)


def _by_timeout_decorator(seconds: float, body: Body) -> object:
    return timeout_decorator.timeout(seconds)(body)()


def _by_stopit_threads(seconds: float, body: Body) -> object:
    with stopit.ThreadingTimeout(seconds, swallow_exc=False):
        return body()


def _by_stopit_signal(seconds: float, body: Body) -> object:
    with stopit.SignalTimeout(seconds, swallow_exc=False):
        return body()


LIMITS: dict[str, Limit] = {
    "iowq.timeout": _by_iowq,
    "func-timeout": _by_func_timeout,
    "timeout-decorator": _by_timeout_decorator,
    "stopit.ThreadingTimeout": _by_stopit_threads,
    "stopit.SignalTimeout": _by_stopit_signal,
}


class Thing:
    """What blocks or computes until it is ended, or for GIVE_UP seconds."""

    def __init__(self, block: Callable[[Thing], object]) -> None:
        self._block = block
        self._ended = threading.Event()
        self._read, self._write = socket.socketpair()
        self._lock = threading.Lock()
        self._lock.acquire()
        timer = threading.Timer(GIVE_UP, self.release)
        timer.daemon = True
        timer.start()

    def release(self) -> None:
        self._write.send(b"x")
        self._lock.release()
        self._ended.set()

    def __call__(self) -> None:
        try:
            self._block(self)
        finally:
            self._ended.set()

    def wait(self) -> None:
        self._ended.wait()

    def recv(self) -> None:
        self._read.recv(1)

    def acquire(self) -> None:
        with self._lock:
            pass

    def loop(self) -> None:
        while not self._ended.is_set():
            pass


THINGS = {"recv": Thing.recv, "lock": Thing.acquire, "loop": Thing.loop}


def _ms_to_end(limit: Limit, block: Callable[[Thing], object]) -> float | str:
    """How long after its limit the body itself has ended."""
    thing = Thing(block)
    begun = time.perf_counter()
    try:
        limit(LIMIT, thing)
    except ValueError as error:
        return f"can't: {error}"
    except BaseException:  # each has its own
        pass
    thing.wait()
    took = time.perf_counter() - begun
    return "never" if took > GIVE_UP * 0.95 else (took - LIMIT) * 1000


def _on_other_thread(function: Callable[[], float | str]) -> float | str:
    results: list[float | str] = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    return results[0]


def _us_unreached(limit: Limit, calls: int) -> float:
    begun = time.perf_counter()
    for _ in range(calls):
        limit(60, _thread.get_ident)
    return (time.perf_counter() - begun) / calls * 1e6


def _show(result: float | str) -> str:
    return result if isinstance(result, str) else f"{result:.1f} ms late"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="medians of so many")
    parser.add_argument("--calls", type=int, default=2000, help="whose limit isn't reached")
    options = parser.parse_args()
    print(f"CPython {platform.python_version()}")
    for name, limit in LIMITS.items():
        for what, block in THINGS.items():
            measure = functools.partial(_ms_to_end, limit, block)
            here, there = _show(measure()), _show(_on_other_thread(measure))
            print(f"{name}, {what}: the main thread's ends {here}, another one's {there}")
    costs: dict[str, list[float]] = {name: [] for name in LIMITS}
    for _ in range(options.rounds):
        for name, limit in LIMITS.items():
            costs[name].append(_us_unreached(limit, options.calls))
    for name, times in costs.items():
        print(f"{name}: {statistics.median(times):.1f} us, if its limit isn't reached")


if __name__ == "__main__":
    main()
