"""``timeout`` on any thread, the main one included, and what it raises."""

from __future__ import annotations

import _thread
import asyncio
import contextlib
import ctypes
import gc
import importlib
import os
import queue
import random
import signal
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import FrameType
from typing import Any

import pytest

import iowq
from iowq._cancel import lent
from iowq._native import lib
from support import DEADLINE, run_python, wait_until


def _loop() -> None:
    while True:
        pass


def _recv() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.recv(1)


def _taken_lock() -> None:
    lock = threading.Lock()
    with lock, lock:
        pass


def _join() -> None:
    event = threading.Event()
    thread = threading.Thread(target=event.wait, daemon=True)
    thread.start()  # time may be up in here, and nobody sets the event then
    try:
        thread.join()
    finally:
        event.set()


def _future() -> None:
    with ThreadPoolExecutor(1) as pool:
        event = threading.Event()
        try:
            pool.submit(event.wait).result()
        finally:
            event.set()


ENDLESS: list[Callable[[], object]] = [
    _loop,
    _recv,
    _taken_lock,
    _join,
    _future,
    threading.Event().wait,
    queue.Queue[int]().get,
    queue.SimpleQueue[int]().get,
    lambda: time.sleep(60),
]


def _is_lent() -> bool:
    """Whether the calling thread has a worker's part."""
    return lib.iowq_serial() != 0


def _guests() -> int:
    """How many threads have one."""
    entries: list[Any] = []
    if lent._lender is not None:
        lib.iowq_get_workers(lent._lender._wq, id(entries))
    return len(entries)


def _within(seconds: float, function: Callable[[], object]) -> None:
    with iowq.timeout(seconds):
        function()


def _ends(endless: Callable[[], object]) -> None:
    begun = time.monotonic()
    with pytest.raises(TimeoutError, match=r"not done in 0\.05 s"), iowq.timeout(0.05):
        endless()
    assert 0.05 <= time.monotonic() - begun < DEADLINE
    assert not _is_lent()
    time.sleep(0.001)  # nothing is left over
    assert sum(range(100_000))


def _in_thread(function: Callable[[], object], start: Callable[[Any], object]) -> None:
    """Calls it on a thread that start(function) starts; raises what it raises."""
    outcome: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()

    def call() -> None:
        try:
            function()
        except BaseException as error:
            outcome.put(error)
        else:
            outcome.put(None)

    started = start(call)
    error = outcome.get(timeout=DEADLINE)
    if isinstance(started, threading.Thread):
        started.join()
    if error is not None:
        raise error


def _start_thread(function: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=function)
    thread.start()
    return thread


def _start_raw_thread(function: Callable[[], None]) -> object:
    return _thread.start_new_thread(function, ())


def _start_native_thread(function: Callable[[], None]) -> object:
    """By the C library: the interpreter hears of it when it calls Python."""
    native = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(lambda _arg: function())
    number = ctypes.c_ulong()
    libc = ctypes.CDLL(None)
    assert libc.pthread_create(ctypes.byref(number), None, native, None) == 0
    assert libc.pthread_join(number, None) == 0
    return native


# ---- what is ended, and where


@pytest.mark.parametrize("endless", ENDLESS)
def test_the_main_thread(endless: Callable[[], object]) -> None:
    _ends(endless)


@pytest.mark.parametrize("endless", ENDLESS)
def test_another_thread(endless: Callable[[], object]) -> None:
    _in_thread(lambda: _ends(endless), _start_thread)


@pytest.mark.parametrize("start", [_start_raw_thread, _start_native_thread])
def test_threads_that_threading_does_not_know(start: Callable[[Any], object]) -> None:
    for endless in (_loop, _recv, _taken_lock):
        _in_thread(lambda endless=endless: _ends(endless), start)  # type: ignore[misc]
    wait_until(lambda: not _guests())


def test_many_threads_at_once() -> None:
    with ThreadPoolExecutor(32) as pool:
        for ended in [pool.submit(_ends, ENDLESS[n % len(ENDLESS)]) for n in range(64)]:
            ended.result()


def test_a_limit_that_is_not_reached() -> None:
    for seconds in (60, float("inf"), 1e300, 10**400):
        for _ in range(100):
            with iowq.timeout(seconds) as limit:
                assert isinstance(limit, iowq.timeout)
                assert _is_lent()
        assert not _is_lent()
    with iowq.timeout(0.05):
        pass
    time.sleep(0.1)


@pytest.mark.parametrize("seconds", [0, -1, float("-inf")])
def test_time_that_is_up_already(seconds: float) -> None:
    with pytest.raises(TimeoutError), iowq.timeout(seconds):
        time.sleep(60)


@pytest.mark.parametrize("endless", ENDLESS)
@pytest.mark.parametrize(("outer", "inner"), [(0.05, 60), (60, 0.05)])
def test_they_nest(endless: Callable[[], object], outer: float, inner: float) -> None:
    seen: list[str] = []
    with contextlib.suppress(TimeoutError), iowq.timeout(outer):
        try:
            with iowq.timeout(inner):
                endless()
        except TimeoutError:
            seen.append("inner")
            raise
        seen.append("never")
    assert seen == (["inner"] if inner < outer else [])
    assert not _is_lent()


def test_two_limits_at_once() -> None:
    for _ in range(50):
        with pytest.raises(TimeoutError), iowq.timeout(0.01), iowq.timeout(0.01):
            _recv()
        assert not _is_lent()


def test_errors_are_the_bodys_own() -> None:
    for error in (KeyError("mine"), SystemExit(), KeyboardInterrupt(), GeneratorExit()):
        with pytest.raises(type(error)) as caught, iowq.timeout(60):
            raise error
        assert caught.value is error
        assert caught.value.__cause__ is None


def test_it_is_no_work() -> None:
    def check_for_ever() -> None:
        while True:
            iowq.checkpoint()

    with iowq.timeout(60):
        assert iowq.current_work() is None
        assert not iowq.cancel_requested()
        iowq.checkpoint()
        with iowq.shield(), iowq.blocking():
            pass
        with pytest.raises(TimeoutError):
            _within(0.02, check_for_ever)


def test_a_shield_and_notice() -> None:
    steps: list[str] = []

    def shielded() -> None:
        with iowq.shield():
            time.sleep(0.1)
            steps.append("shielded")
        time.sleep(60)

    with pytest.raises(TimeoutError):
        _within(0.02, shielded)
    with (
        pytest.raises(TimeoutError),
        iowq.timeout(0.02),
        iowq.on_cancel(steps.append, "notice"),
    ):
        time.sleep(60)
    assert steps == ["shielded", "notice"]


def test_clean_up_may_block() -> None:
    steps: list[str] = []

    def clean_up() -> None:
        try:
            time.sleep(60)
        finally:
            time.sleep(0.1)
            steps.append("cleaned")

    with pytest.raises(TimeoutError):
        _within(0.02, clean_up)
    assert steps == ["cleaned"]


def test_what_a_thread_is_stays() -> None:
    """A worker's thread is put back after each work; one that is lent a worker's part is not."""
    hooks = sys.get_asyncgen_hooks()
    depth = sys.get_coroutine_origin_tracking_depth()
    try:
        with contextlib.suppress(TimeoutError), iowq.timeout(0.01):
            sys.set_coroutine_origin_tracking_depth(3)
            _loop()
        assert sys.get_coroutine_origin_tracking_depth() == 3
        assert sys.get_asyncgen_hooks() == hooks
    finally:
        sys.set_coroutine_origin_tracking_depth(depth)


def test_within_an_except_clause() -> None:
    handled: list[BaseException | None] = []
    error = KeyError()
    try:
        raise error
    except KeyError:
        _ends(_recv)
        handled.append(sys.exc_info()[1])
    assert handled == [error]


@pytest.mark.skipif(sys.gettrace() is not None, reason="somebody traces already")
def test_a_tracer_stays() -> None:
    lines: list[int] = []

    def tracer(frame: FrameType, event: str, _arg: object) -> Any:
        if event == "line":
            lines.append(frame.f_lineno)
        return tracer

    sys.settrace(tracer)
    try:
        with contextlib.suppress(TimeoutError), iowq.timeout(0.02):
            _loop()
        assert sys.gettrace() is tracer
    finally:
        sys.settrace(None)
    assert len(set(lines)) > 3


# ---- signals


def _interrupt_main(delay: float) -> threading.Timer:
    main = threading.main_thread().ident
    timer = threading.Timer(delay, signal.pthread_kill, (main, signal.SIGINT))
    timer.start()
    return timer


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """SIGINT raises KeyboardInterrupt, also where the shell ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("endless", ENDLESS)
@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c(endless: Callable[[], object]) -> None:
    timers: list[threading.Timer] = []

    def interrupted() -> None:
        timers.append(_interrupt_main(0.05))
        endless()

    with pytest.raises(KeyboardInterrupt):
        _within(60, interrupted)
    timers[0].join()
    assert not _is_lent()


@pytest.mark.parametrize(("endless", "asked"), [(_loop, "computing"), (_taken_lock, "waits")])
@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_while_it_is_decided_whether_to_end_it(
    monkeypatch: pytest.MonkeyPatch, endless: Callable[[], object], asked: str
) -> None:
    """By functions of the package's own: the handler's exception goes through them."""

    def is_inside_import(_frame: FrameType) -> bool:
        signal.raise_signal(signal.SIGINT)
        return False

    module = importlib.import_module(f"iowq._cancel.{asked}")
    monkeypatch.setattr(module.safepoints, "is_inside_import", is_inside_import)
    with pytest.raises(KeyboardInterrupt):
        _within(0.02, endless)
    assert not _is_lent()


def test_ctrl_c_at_any_instant_leaves_no_limit_behind() -> None:
    """It comes between any two steps of `with`, too."""
    stop = threading.Event()
    main = threading.main_thread().ident
    assert main is not None
    may_raise: list[bool] = []

    def interrupt() -> None:
        chance = random.Random(1)
        while not stop.wait(chance.random() / 2000):
            signal.pthread_kill(main, signal.SIGINT)

    def handler(*_: object) -> None:
        if may_raise:
            may_raise.clear()
            raise KeyboardInterrupt

    def enter_and_leave() -> None:
        may_raise.append(True)
        while True:
            with iowq.timeout(60):
                pass

    before = signal.signal(signal.SIGINT, handler)
    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        for _ in range(300):
            with pytest.raises(KeyboardInterrupt):
                enter_and_leave()
            assert not _is_lent()
    finally:
        stop.set()
        thread.join()
        signal.signal(signal.SIGINT, before)


def test_a_handler_runs_and_the_call_goes_on() -> None:
    """PEP 475: a call that a signal interrupts is tried again, within its limit."""
    calls: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda *_: calls.append(1))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
        begun = time.monotonic()
        with iowq.timeout(60):
            time.sleep(0.1)
        assert time.monotonic() - begun >= 0.1
        _ends(_recv)
        _ends(_taken_lock)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert calls


def test_a_signal_that_the_thread_has_blocked() -> None:
    def blocks() -> None:
        everything = signal.valid_signals()
        signal.pthread_sigmask(signal.SIG_BLOCK, everything)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        _ends(_recv)
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before

    _in_thread(blocks, _start_thread)


# ---- generators, threads that end, forks


def _open(seconds: float) -> Generator[None, None, None]:
    with iowq.timeout(seconds):
        yield


def test_context_managers_made_of_generators() -> None:
    limited = contextlib.contextmanager(_open)
    for endless in (_loop, _recv, _taken_lock):
        with pytest.raises(TimeoutError), limited(0.05):
            endless()

    def by_a_stack() -> None:
        with contextlib.ExitStack() as stack:
            stack.enter_context(iowq.timeout(0.05))
            stack.enter_context(limited(60))
            _loop()

    with pytest.raises(TimeoutError):
        by_a_stack()
    assert not _is_lent()


def test_a_generator_that_another_thread_closes() -> None:
    opened = _open(0.2)
    next(opened)
    _in_thread(opened.close, _start_thread)
    time.sleep(0.4)
    for _ in range(10_000):
        pass
    _ends(_recv)
    wait_until(lambda: not _guests())


def test_blocks_of_generators_end_in_any_order() -> None:
    first, second = _open(60), _open(60)
    next(first)
    next(second)

    def close_first() -> None:
        first.close()
        time.sleep(60)

    with pytest.raises(TimeoutError):
        _within(0.05, close_first)
    second.close()
    assert not _is_lent()


def test_a_block_that_is_dropped_ends() -> None:
    opened = _open(0.05)
    next(opened)
    del opened
    gc.collect()
    assert not _is_lent()
    iowq.timeout(0.05).__enter__()
    assert not _is_lent()
    time.sleep(0.1)


def test_a_thread_that_ends_inside() -> None:
    left: list[Generator[None, None, None]] = []

    def leave() -> None:
        left.append(_open(0.02))
        next(left[-1])

    for _ in range(20):
        _in_thread(leave, _start_thread)
    assert not _guests()
    time.sleep(0.05)
    for opened in left:
        opened.close()
    _ends(_loop)


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*")
def test_a_fork_inside() -> None:
    pid = -1
    try:
        with iowq.timeout(60):
            pid = os.fork()
            if pid == 0:
                time.sleep(0.01)
        if pid == 0:
            assert not _is_lent()
            _ends(_recv)
            _ends(_loop)
            os._exit(0)
    finally:
        if pid == 0:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    _ends(_recv)


def test_the_interpreter_ends_inside() -> None:
    """Of threads that are ended by that, and go on whatever is raised."""
    code = """
        import threading, time, iowq
        def stubborn():
            while True:
                try:
                    with iowq.timeout(0.001):
                        while True:
                            try:
                                sum(range(1000))
                            except BaseException:
                                pass
                except BaseException:
                    pass
        for _ in range(3):
            threading.Thread(target=stubborn, daemon=True).start()
        time.sleep(0.05)
        iowq.timeout(60).__enter__()
    """
    for _ in range(5):
        done = run_python(code)
        assert (done.returncode, done.stderr) == (0, "")


def test_callbacks_on_workers() -> None:
    """They are no works; the worker's own is over, or hasn't begun."""
    with iowq.WorkQueue(1, initializer=lambda: _ends(_recv)) as wq:
        seen: queue.SimpleQueue[object] = queue.SimpleQueue()

        def callback(_future: object) -> None:
            try:
                _ends(_recv)
                _ends(_loop)
            except BaseException as error:
                seen.put(error)
            else:
                seen.put(None)

        future = wq.submit(time.sleep, 0.01)
        future.add_done_callback(callback)
        assert seen.get(timeout=DEADLINE) is None
        opened = _open(0.02)  # left open by a callback: the next work is none of its
        future = wq.submit(time.sleep, 0.01)
        future.add_done_callback(lambda _: next(opened))
        assert wq.submit(time.sleep, 0.1).result() is None
        work = wq.enqueue(_recv)
        wait_until(work.running)
        wq.cancel(work)
        wait_until(work.cancelled)


# ---- asyncio


def test_around_an_event_loop() -> None:
    cleaned: list[int] = []

    async def main() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            cleaned.append(1)

    with pytest.raises(TimeoutError), iowq.timeout(0.05):
        asyncio.run(main())
    assert cleaned
    asyncio.run(asyncio.sleep(0))


def test_in_a_function_that_a_coroutine_calls() -> None:
    async def others(ticks: list[int]) -> None:
        while True:
            await asyncio.sleep(0.001)
            ticks.append(1)

    async def main() -> None:
        ticks: list[int] = []
        task = asyncio.create_task(others(ticks))
        for endless in (_loop, _recv, _taken_lock):
            _ends(endless)
            before = len(ticks)
            await asyncio.sleep(0.02)
            assert len(ticks) > before
        task.cancel()

    asyncio.run(main())


def test_in_an_async_function_it_is_refused() -> None:
    limited = contextlib.contextmanager(_open)

    async def generator() -> AsyncIterator[None]:
        with iowq.timeout(0.02):
            yield

    async def directly() -> None:
        with iowq.timeout(0.02):
            await asyncio.sleep(0.1)

    async def by_a_generator() -> None:
        with limited(0.02):
            await asyncio.sleep(0.1)

    async def by_a_stack() -> None:
        with contextlib.ExitStack() as stack:
            stack.enter_context(iowq.timeout(0.02))
            await asyncio.sleep(0.1)

    async def by_an_async_generator() -> None:
        async for _ in generator():
            await asyncio.sleep(0.1)

    for function in (directly, by_a_generator, by_a_stack, by_an_async_generator):
        with pytest.raises(RuntimeError, match=r"async function .* asyncio\.timeout"):
            asyncio.run(function())
    assert not _is_lent()


# ---- the decorator


def test_the_decorator() -> None:
    @iowq.timeout(0.05)
    def limited(endless: Callable[[], object] | None) -> int:
        """Docs."""
        if endless is not None:
            endless()
        return 1

    assert limited(None) == 1
    assert limited.__doc__ == "Docs."
    for endless in ENDLESS:
        with pytest.raises(TimeoutError):
            limited(endless)
    with pytest.raises(TypeError, match="function must be callable"):
        iowq.timeout(1)(1)  # type: ignore[arg-type]


def test_the_decorator_refuses_what_runs_later() -> None:
    async def coroutine() -> None:
        pass

    async def async_generator() -> AsyncIterator[None]:
        yield

    class Callable:
        async def __call__(self) -> None:
            pass

    for function in (coroutine, async_generator, _open, Callable()):
        with pytest.raises(TypeError, match="no async or generator function: "):
            iowq.timeout(1)(function)


def test_a_decorated_function_may_call_itself() -> None:
    @iowq.timeout(60)
    def depth(n: int) -> int:
        return 1 + depth(n - 1) if n else 0

    assert depth(50) == 50
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(depth, [20] * 64)) == [20] * 64


# ---- what is raised


class Soft(Exception):  # noqa: N818 - as Celery's
    pass


class Hard(BaseException):
    pass


def _in_a_work(function: Callable[[], object]) -> None:
    with iowq.WorkQueue(2) as wq:
        wq.submit(function).result(DEADLINE)


ANYWHERE = pytest.mark.parametrize("run", [lambda function: function(), _in_a_work])
Run = Callable[[Callable[[], object]], None]


@ANYWHERE
@pytest.mark.parametrize("endless", ENDLESS)
@pytest.mark.parametrize("exception", [Soft, Soft("mine"), Hard, Hard("mine")])
def test_the_exception_is_raised_inside(
    endless: Callable[[], object], run: Run, exception: Any
) -> None:
    kind = exception if isinstance(exception, type) else type(exception)
    seen: list[BaseException] = []

    def limited() -> None:
        with iowq.timeout(0.02, exception):
            try:
                endless()
            except (Exception, Hard) as error:
                seen.append(error)
                raise

    with pytest.raises(kind) as caught:
        run(limited)
    assert seen == [caught.value]
    assert isinstance(exception, type) or caught.value is exception


@ANYWHERE
def test_an_exception_is_raised_once(run: Run) -> None:
    steps: list[str] = []

    def limited() -> str:
        with iowq.timeout(0.02, exception=Soft):
            try:
                time.sleep(60)
            except Soft:
                steps.append("soft")
            time.sleep(1.2)  # longer than the grace
            end = time.monotonic() + 0.1
            while time.monotonic() < end:
                pass
            steps.append("goes on")
            raise KeyError

    with pytest.raises(KeyError):
        run(limited)
    assert steps == ["soft", "goes on"]


@ANYWHERE
def test_others_are_raised_until_the_block_is_left(run: Run) -> None:
    seen: list[BaseException] = []

    def limited() -> None:
        with iowq.timeout(0.02, Hard):
            while len(seen) < 2:
                try:
                    time.sleep(60)
                except BaseException as error:
                    seen.append(error)
            time.sleep(60)

    with pytest.raises(Hard):
        run(limited)
    assert [type(error) for error in seen] == [Hard, Hard]


@ANYWHERE
def test_soft_and_hard(run: Run) -> None:
    """What code that retries makes of the first doesn't keep it from the second."""
    steps: list[str] = []

    def limited() -> None:
        hard = iowq.timeout(float("inf"), Hard)
        with hard, iowq.timeout(0.02, Soft):
            while True:
                try:
                    time.sleep(60)
                except Exception as error:
                    steps.append(type(error).__name__)
                    hard.cancel()

    with pytest.raises(Hard):
        run(limited)
    assert steps == ["Soft"]


@ANYWHERE
def test_an_error_that_a_library_makes_of_it(run: Run) -> None:
    """Of a call that it makes in C."""

    def limited() -> None:
        with iowq.timeout(0.02, Soft):
            ours, theirs = socket.socketpair()
            with ours, theirs:
                libc = ctypes.CDLL(None, use_errno=True)
                if libc.recv(ours.fileno(), ctypes.create_string_buffer(1), 1, 0) < 0:
                    raise ValueError(ctypes.get_errno())

    with pytest.raises(Soft) as caught:
        run(limited)
    assert isinstance(caught.value.__cause__, ValueError)


def test_exceptions_that_are_none() -> None:
    for exception in (1, int, "Soft"):
        with pytest.raises(TypeError, match="exception must be an exception or its class"):
            iowq.timeout(1, exception)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="exception must be an exception or its class"):
            iowq.timeout(1).cancel(exception)  # type: ignore[arg-type]


def test_an_exception_that_cannot_be_made() -> None:
    class DemandingError(Exception):
        def __init__(self, what: str) -> None:
            super().__init__(what)

    with pytest.raises(TypeError, match="what"), iowq.timeout(0.02, DemandingError):
        time.sleep(60)
    assert not _is_lent()


# ---- from another thread


@ANYWHERE
@pytest.mark.parametrize("endless", ENDLESS)
@pytest.mark.parametrize("exception", [None, Soft, Hard])
def test_another_thread_ends_the_block(
    endless: Callable[[], object], run: Run, exception: type[BaseException] | None
) -> None:
    limit = iowq.timeout(float("inf"))
    assert not limit.cancel()

    def limited() -> None:
        with limit:
            entered.set()
            endless()

    entered = threading.Event()
    answers: list[bool] = []

    def cancel() -> None:
        entered.wait()
        time.sleep(0.02)
        answers.append(limit.cancel(exception))

    thread = threading.Thread(target=cancel)
    thread.start()
    with pytest.raises(exception or TimeoutError):
        run(limited)
    thread.join()
    assert answers == [True]
    assert not limit.cancel()


@ANYWHERE
def test_cancel_says_what_is_raised_next(run: Run) -> None:
    limit = iowq.timeout(0.02, Soft)
    softly: list[int] = []

    def limited() -> None:
        with limit:
            try:
                time.sleep(60)
            except Soft:
                softly.append(1)
                limit.cancel(Hard)
                time.sleep(60)

    with pytest.raises(Hard):
        run(limited)
    assert softly

    def again() -> None:
        with limit:  # is as it was made
            time.sleep(60)

    with pytest.raises(Soft):
        run(again)


def test_cancel_comes_never_after_the_block() -> None:
    """Called by another thread at any time."""
    limit = iowq.timeout(float("inf"))
    stop = threading.Event()

    def cancel() -> None:
        chance = random.Random(1)
        while not stop.wait(chance.random() / 2000):
            limit.cancel()

    thread = threading.Thread(target=cancel)
    thread.start()
    ended = 0
    while ended < 300:
        try:
            with limit:
                for _ in range(100):
                    pass
                time.sleep(0.0001)
        except TimeoutError:
            ended += 1
        assert not _is_lent()
        for _ in range(100):
            pass
    stop.set()
    thread.join()


def test_the_user_of_it() -> None:
    """A pool of tasks: what is around a task is never interrupted, and the task by its limits."""
    steps: list[str] = []

    def task() -> None:
        try:
            time.sleep(60)
        except Soft:
            steps.append("soft")
            time.sleep(60)

    def tracer(limit: iowq.timeout) -> str:
        time.sleep(0.05)
        try:
            with iowq.interruptible(), limit:
                task()
        except (Soft, Hard) as error:
            time.sleep(0.05)
            return type(error).__name__
        return "done"

    with iowq.WorkQueue(2) as wq:
        limit = iowq.timeout(0.02, Soft)
        outcome = wq.uncancellable.submit(tracer, limit)
        wait_until(lambda: steps)
        assert limit.cancel(Hard)
        assert outcome.result(DEADLINE) == "Hard"


# ---- at random


class _Mill:
    """One thread's blocks, whose limits pass at random instants."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._ours, self._theirs = socket.socketpair()
        self._lock = threading.Lock()
        self._lock.acquire()
        self._event = threading.Event()
        self._items: queue.Queue[int] = queue.Queue()
        self._simple: queue.SimpleQueue[int] = queue.SimpleQueue()
        self.expired = 0
        self.errors: list[BaseException] = []

    def _with_lock(self) -> None:
        with self._lock:
            pass

    def _spin(self) -> None:
        while True:
            pass

    def _spin_until(self, end: float) -> None:
        while time.monotonic() < end:
            pass

    def _body(self, limit: float) -> tuple[bool, Callable[[], object]]:
        """What is done within the limit, and whether it has no end of its own."""
        end = time.monotonic() + limit
        bodies: list[tuple[bool, Callable[[], object]]]
        bodies = [
            (True, lambda: self._ours.recv(1)),
            (True, self._with_lock),
            (True, self._event.wait),
            (True, self._items.get),
            (True, self._simple.get),
            (True, lambda: time.sleep(60)),
            (True, self._spin),
            (False, lambda: time.sleep(limit)),
            (False, lambda: self._spin_until(end)),
            (False, lambda: self._items.get(timeout=limit)),
            (False, lambda: self._lock.acquire(timeout=limit)),
        ]
        return self._chance.choice(bodies)

    def _turn(self) -> None:
        limit = self._chance.random() ** 2 * 0.003
        endless, body = self._body(limit)
        begun = time.monotonic()
        try:
            with iowq.timeout(limit):
                body()
            assert not endless
        except TimeoutError:
            self.expired += 1
        except queue.Empty:
            pass
        assert time.monotonic() - begun < DEADLINE
        assert not _is_lent()

    def run(self, total: int) -> None:
        try:
            while self.expired < total:
                self._turn()
                for _ in range(50):
                    len("outside")
        except BaseException as error:
            self.errors.append(error)


def test_none_is_missed_and_none_comes_late() -> None:
    mills = [_Mill(seed) for seed in range(4)]
    total = int(os.environ.get("IOWQ_EXPIRATIONS", "2000")) // len(mills)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    try:
        threads = [threading.Thread(target=mill.run, args=(total,)) for mill in mills[1:]]
        for thread in threads:
            thread.start()
        mills[0].run(total)
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert [error for mill in mills for error in mill.errors] == []
    assert all(mill.expired >= total for mill in mills)
    assert not _guests()
