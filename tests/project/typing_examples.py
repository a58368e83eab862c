"""What type checkers are to know of a program that uses the queue. It never runs.

Each ``type: ignore`` stands for an error that must be found: a checker that finds none
there says that the comment is not needed.
"""

# pyright: strict, reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

import asyncio
import concurrent.futures as cf
from collections.abc import Iterator

from typing_extensions import assert_type

import iowq
import iowq.aio


def fetch(url: str, *, retries: int = 3) -> bytes:
    """Returns what is there."""
    return url.encode() * retries


def submitting(wq: iowq.WorkQueue) -> None:
    assert_type(wq.submit(fetch, "url", retries=2), iowq.Future[bytes])
    assert_type(wq.submit(fetch, "url").result(timeout=1.5), bytes)
    assert_type(wq.submit(fetch, "url").exception(), "BaseException | None")
    wq.submit(fetch, 3)  # type: ignore[arg-type]
    wq.submit(fetch, "url", retry=2)  # type: ignore[call-arg]
    wq.submit(fetch)  # type: ignore[call-arg]
    wq.submit("fetch")  # type: ignore[arg-type]
    wrong: iowq.Future[str] = wq.submit(fetch, "url")  # type: ignore[arg-type]
    print(wrong)


def enqueueing(wq: iowq.WorkQueue) -> None:
    assert_type(wq.enqueue(fetch, "url"), iowq.Work)
    assert_type(wq.enqueue_hashed("key", fetch, "url", retries=1), iowq.Work)
    wq.enqueue(fetch, 3)  # type: ignore[arg-type]
    wq.enqueue_hashed("key", fetch, 3)  # type: ignore[arg-type]
    wq.enqueue_hashed([], fetch, "url")  # type: ignore[arg-type]


def views(wq: iowq.WorkQueue) -> None:
    for view in (wq.hashed("key"), wq.unbounded, wq.within(3.5), wq.uncancellable, wq.chain()):
        assert_type(view.submit(fetch, "url"), iowq.Future[bytes])
        view.submit(fetch, 3)  # type: ignore[arg-type]
    wq.hashed([])  # type: ignore[arg-type]
    wq.within("3")  # type: ignore[arg-type]


def mapping(wq: iowq.WorkQueue) -> None:
    assert_type(wq.map(fetch, ["url"], timeout=3, chunksize=2, buffersize=9), Iterator[bytes])


def as_an_executor(wq: iowq.WorkQueue) -> None:
    executor: cf.Executor = wq
    future: cf.Future[bytes] = wq.submit(fetch, "url")
    done, _ = cf.wait([wq.submit(fetch, "url"), future, executor.submit(fetch, "url")])
    assert_type(done, set[cf.Future[bytes]])
    for finished in cf.as_completed([wq.submit(fetch, "url")]):
        assert_type(finished.result(), bytes)


async def with_asyncio(wq: iowq.WorkQueue) -> None:
    loop = asyncio.get_running_loop()
    assert_type(await loop.run_in_executor(wq, fetch, "url"), bytes)
    assert_type(await iowq.aio.run(wq, fetch, "url", retries=1), bytes)
    assert_type(await (await iowq.aio.submit(wq.hashed(1), fetch, "url")), bytes)
    await iowq.aio.run(wq, fetch, 3)  # type: ignore[arg-type]
