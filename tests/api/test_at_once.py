"""Many threads use one queue at once: what no GIL keeps apart, if there is none."""

from __future__ import annotations

import asyncio
import concurrent.futures as cf
import io
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

import iowq
import iowq.aio
from iowq._once import once
from support import DEADLINE, run_python, wait_until

THREADS = 4


def _at_once(function: Callable[[int], object], count: int = THREADS) -> None:
    """Calls function(number) on so many threads, and raises what it raises."""
    start = threading.Barrier(count)

    def call(number: int) -> None:
        start.wait(DEADLINE)
        function(number)

    with cf.ThreadPoolExecutor(count) as pool:
        for future in [pool.submit(call, number) for number in range(count)]:
            future.result(4 * DEADLINE)


def test_everything_at_once() -> None:
    """Nothing is lost, called twice, or left behind."""
    told: Counter[Any] = Counter()
    lock = threading.Lock()
    running: Counter[str] = Counter()

    def tell(future: Any) -> None:
        with lock:
            told[future] += 1

    def keyed(key: str) -> str:
        running[key] += 1
        alone = running[key] == 1
        running[key] -= 1
        assert alone
        return key

    def use(number: int) -> None:
        choose = random.Random(number)
        futures: list[Any] = []
        for n in range(150):
            key = f"key {choose.randrange(5)}"  # equal to others', and not the same
            hashed = wq.hashed(key)
            executor = choose.choice([wq, hashed, hashed, wq.unbounded, wq.chain()])
            future = executor.submit(keyed if executor is hashed else str, key)
            if choose.random() < 0.5:
                future.add_done_callback(tell)
                futures.append(future)
            if choose.random() < 0.2:
                future.cancel()
            wq.enqueue_hashed(key, int)
            if n % 10 == 0:
                iowq.dump(io.StringIO())
                assert repr(future)
                assert wq.stats()
                cf.wait(futures[-3:], DEADLINE)
        done, others = cf.wait(futures, DEADLINE)
        assert not others
        assert not any(future.exception() for future in done if not future.cancelled())
        wait_until(lambda: all(told[future] == 1 for future in done))

    with iowq.WorkQueue(8) as wq:
        _at_once(use)
        wq.flush(timeout=DEADLINE)
        assert len(wq._keys) == 0
        stats = wq.stats()
        assert stats.enqueued == stats.finished + stats.cancelled


def test_many_wait_for_a_work_that_is_about_to_end() -> None:
    with iowq.WorkQueue(2) as wq:
        for _ in range(150):
            future = wq.submit(int, "7")
            called: list[int] = []

            def use(number: int, future: Any = future, called: list[int] = called) -> None:
                future.add_done_callback(lambda _: called.append(number))
                assert future.result(DEADLINE) == 7
                assert future.exception(DEADLINE) is None

            _at_once(use)
            wait_until(lambda called=called: sorted(called) == list(range(THREADS)))  # type: ignore[misc]


def test_many_cancel_the_same_works() -> None:
    with iowq.WorkQueue(2) as wq:
        for _ in range(30):
            futures = [wq.submit(threading.Event().wait) for _ in range(6)]

            def cancel(number: int, futures: list[Any] = futures) -> None:
                for future in futures[number:] + futures[:number]:
                    future.cancel()
                wq.cancel_if(lambda work: work in futures)

            _at_once(cancel)
            assert not cf.wait(futures, DEADLINE).not_done
            assert all(future.cancelled() for future in futures)


def test_loops_on_many_threads_share_a_queue() -> None:
    async def main() -> None:
        for _ in range(10):
            calls = [iowq.aio.run(wq, str, n) for n in range(20)]
            assert await asyncio.gather(*calls) == [str(n) for n in range(20)]
            lost = asyncio.ensure_future(iowq.aio.run(wq, threading.Event().wait))
            await asyncio.sleep(0)
            lost.cancel()
            await asyncio.wait([lost])
            assert lost.cancelled()

    with iowq.WorkQueue(8) as wq:
        _at_once(lambda _: asyncio.run(asyncio.wait_for(main(), 2 * DEADLINE)))


def test_the_first_queues_of_a_process_at_once() -> None:
    """What the first one installs, by hooks on the interpreter's functions, is installed once."""
    for _ in range(5):
        result = run_python(
            """
            import iowq, threading
            start, lock = threading.Barrier(8), threading.Lock()
            taken = []
            def use():
                start.wait()
                with iowq.WorkQueue(2) as wq:
                    taken.append(wq.submit(lock.acquire, False).result())
                    wq.submit(threading.Event().wait, 0.001).result()
            threads = [threading.Thread(target=use, daemon=True) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            print(sorted(taken))
            """,
            timeout=4 * DEADLINE,  # 7 s under ThreadSanitizer, where nothing else runs
        )
        assert result.stdout == f"{[*[False] * 7, True]}\n", result


def test_once_is_once() -> None:
    calls: list[int] = []
    start = threading.Barrier(THREADS)

    @once
    def call() -> object:
        calls.append(threading.get_ident())
        time.sleep(0.01)  # so that the others come
        return object()

    def use(_number: int) -> object:
        start.wait(DEADLINE)
        return call()

    with cf.ThreadPoolExecutor(THREADS) as pool:
        assert len(set(pool.map(use, range(THREADS)))) == 1
    assert len(calls) == 1


def test_once_is_tried_again_after_an_error() -> None:
    tries = iter([ValueError("the first"), None])

    @once
    def call() -> str:
        if error := next(tries):
            raise error
        return "done"

    with pytest.raises(ValueError, match="the first"):
        call()
    assert call() == call() == "done"


def test_once_inside_of_itself_doesnt_wait_for_itself() -> None:
    depths: list[int] = []

    @once
    def call() -> int:
        depths.append(len(depths))
        return len(depths) if len(depths) == 2 else call()

    assert call() == call() == 2
    assert depths == [0, 1]
