"""What is done for each work, without any Python code of the package's in between."""

from __future__ import annotations

import ctypes
import functools
import sys
import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import pytest

import iowq
from support import DEADLINE, wait_until


def test_arguments_come_as_they_were_given(wq: iowq.WorkQueue) -> None:
    def show(*args: object, **kwargs: object) -> object:
        return args, kwargs

    for executor in (wq, wq.hashed("key"), wq.within(DEADLINE), wq.unbounded):
        assert executor.submit(show).result() == ((), {})
        assert executor.submit(show, 1, fn=2, self=3).result() == ((1,), {"fn": 2, "self": 3})
        seen: list[object] = []

        def add(*, key: object, seen: list[object] = seen) -> None:
            seen.append(key)

        executor.enqueue(seen.append, 1)
        executor.enqueue_hashed("key", add, key=2)
        wq.flush()
        assert sorted(map(str, seen)) == ["1", "2"]


@pytest.mark.parametrize(
    ("name", "args", "missing"),
    [
        ("enqueue", (), "fn"),
        ("submit", (), "fn"),
        ("enqueue_hashed", (), "key"),
        ("enqueue_hashed", ("key",), "fn"),
    ],
)
def test_a_missing_argument_is_named(
    wq: iowq.WorkQueue, name: str, args: tuple[object, ...], missing: str
) -> None:
    with pytest.raises(TypeError, match=rf"{name}\(\) missing .*'{missing}'"):
        getattr(wq, name)(*args)


def test_works_without_python_code_give_way(wq: iowq.WorkQueue) -> None:
    again: Any = functools.partial(wq.enqueue)
    again.__setstate__((wq.enqueue, (again,), {}, {}))  # each work enqueues the next
    again()
    before = wq.stats().started
    wait_until(lambda: wq.stats().started > before)  # this thread has its turns
    again.__setstate__((int, (), {}, {}))
    wq.flush(DEADLINE)


def test_an_exception_from_outside_ends_the_work_that_it_was_meant_for() -> None:
    gate, entered = threading.Lock(), threading.Event()
    gate.acquire()
    set_exception = ctypes.pythonapi.PyThreadState_SetAsyncExc
    with iowq.WorkQueue(1) as wq:
        wq.submit(entered.set).result()
        thread = wq.submit(threading.get_ident).result()
        waiting = wq.submit(gate.acquire)
        following = wq.submit(lambda: "undisturbed")
        wait_until(waiting.running)
        assert set_exception(ctypes.c_ulong(thread), ctypes.py_object(LookupError)) == 1
        gate.release()
        with pytest.raises(LookupError):
            waiting.result(DEADLINE)
        assert following.result(DEADLINE) == "undisturbed"


def test_what_a_work_sets_is_no_other_works() -> None:
    variable = ContextVar("variable", default="unset")
    with iowq.WorkQueue(1) as wq:
        assert wq.submit(variable.get).result() == "unset"
        wq.submit(variable.set, "by a work").result()
        assert wq.submit(variable.get).result() == "unset"

        def set_and_reset() -> None:
            variable.reset(variable.set("for a moment"))

        wq.submit(set_and_reset).result()
        assert wq.submit(variable.get).result() == "unset"


def test_a_pending_work_is_small(wq: iowq.WorkQueue) -> None:
    assert sys.getsizeof(wq.enqueue(int)) <= 250


def test_a_subclass_may_submit_in_its_own_way() -> None:
    class Doubling(iowq.WorkQueue):
        def submit(self, fn, /, *args, **kwargs):  # type: ignore[no-untyped-def]
            return super().submit(lambda: 2 * fn(*args, **kwargs))

    with Doubling(2) as wq:
        assert list(wq.map(abs, [-1, -2])) == [2, 4]


@pytest.mark.parametrize("fn", [globals, locals, vars, dir])
def test_callables_that_ask_for_their_caller(wq: iowq.WorkQueue, fn: Callable[[], object]) -> None:
    assert wq.submit(fn).result()
    assert list(wq.map(eval, ["1 + 1", "2 + 2"])) == [2, 4]
    assert wq.submit(sys._getframe).result() is not None


def test_an_executor_that_was_not_initialised_says_so() -> None:
    class View(iowq.ExecutorView):
        def __init__(self) -> None:
            pass

    queue = iowq.WorkQueue.__new__(iowq.WorkQueue)
    for enqueue in (queue.enqueue, queue.submit, View().submit):
        with pytest.raises(RuntimeError, match="__init__"):
            enqueue(int)
    for executor in (queue, View()):
        with pytest.raises(RuntimeError, match="__init__"):
            executor.enqueue_hashed("key", int)
    with pytest.raises(RuntimeError, match="__init__"):
        queue.cancel_key("key")
    with pytest.raises(TypeError, match="3"):
        iowq.ExecutorView(3)  # type: ignore[arg-type]


def test_a_result_takes_a_timeout_in_any_way(wq: iowq.WorkQueue) -> None:
    future = wq.submit(int)
    assert future.result() == future.result(1) == future.result(timeout=1) == 0
    wrong: list[tuple[tuple[int, ...], dict[str, int]]] = [((1, 2), {}), ((1,), {"timeout": 1})]
    wrong.append(((), {"seconds": 1}))
    for args, kwargs in wrong:
        with pytest.raises(TypeError, match="timeout"):
            future.result(*args, **kwargs)
