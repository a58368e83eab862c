"""enqueue_hashed: never in parallel, in order, exact keys."""

from __future__ import annotations

import gc
import random
import threading
from collections import defaultdict
from pathlib import Path

import pytest

import iowq
from support import Blocker, run_python, wait_until


def test_same_key_in_order_and_never_in_parallel() -> None:
    running: defaultdict[int, int] = defaultdict(int)
    seen: defaultdict[int, list[int]] = defaultdict(list)
    overlaps = []

    def work(key: int, number: int) -> None:
        running[key] += 1
        if running[key] != 1:
            overlaps.append(key)
        if number % 10 == 0:
            threading.Event().wait(0.001)  # another worker gets a chance
        seen[key].append(number)
        running[key] -= 1

    with iowq.WorkQueue(16) as wq:
        for number in range(200):
            for key in range(20):
                wq.enqueue_hashed(key, work, key, number)
    assert not overlaps
    assert all(seen[key] == list(range(200)) for key in range(20))


def test_different_keys_never_wait_for_each_other() -> None:
    blockers = [Blocker() for _ in range(200)]
    with iowq.WorkQueue(200) as wq:
        for number, blocker in enumerate(blockers):
            wq.enqueue_hashed(number << 6, blocker)
        for blocker in blockers:  # all run at once
            blocker.wait_entered()
        for blocker in blockers:
            blocker.release()


def test_equal_keys_are_one_key(wq: iowq.WorkQueue) -> None:
    seen: list[object] = []
    blocker = Blocker()
    wq.enqueue_hashed(1, blocker)
    for key in (1.0, True, 1, 1 + 0j):
        wq.enqueue_hashed(key, seen.append, key)
    done = wq.enqueue_hashed("another", int)
    wait_until(done.done)
    assert seen == []
    blocker.release()
    wq.flush()
    assert seen == [1.0, True, 1, 1 + 0j]


class Colliding:
    """Keys of one hash; equal if their names are."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __hash__(self) -> int:
        return 42

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Colliding) and self.name == other.name


def test_colliding_hashes_do_not_make_keys_wait(wq: iowq.WorkQueue) -> None:
    blocker = Blocker()
    wq.enqueue_hashed(Colliding("a"), blocker)
    blocker.wait_entered()
    works = [wq.enqueue_hashed(Colliding(name), int) for name in "bcdb"]
    wait_until(lambda: all(work.done() for work in works))
    behind = wq.enqueue_hashed(Colliding("a"), int)
    assert behind.pending()
    blocker.release()
    wq.flush()
    assert len(wq._keys) == 0


class Broken:
    """A key whose methods raise once told to."""

    hash_raises = eq_raises = False

    def __hash__(self) -> int:
        if self.hash_raises:
            raise ZeroDivisionError("broken __hash__")
        return 7

    def __eq__(self, other: object) -> bool:
        if self.eq_raises:
            raise ZeroDivisionError("broken __eq__")
        return self is other


def test_keys_with_broken_methods(wq: iowq.WorkQueue) -> None:
    blocker, first, second = Blocker(), Broken(), Broken()
    wq.enqueue_hashed(first, blocker)
    blocker.wait_entered()
    first.eq_raises = first.hash_raises = True
    second.eq_raises = True
    with pytest.raises(ZeroDivisionError, match=r"broken __hash__"):
        wq.enqueue_hashed(first, int)
    with pytest.raises(ZeroDivisionError, match=r"broken __eq__"):
        wq.enqueue_hashed(second, int)
    blocker.release()  # the key's methods aren't needed to end its work
    wq.flush()
    assert len(wq._keys) == 0
    assert wq.stats().enqueued == 1


def test_unhashable_keys(wq: iowq.WorkQueue) -> None:
    with pytest.raises(TypeError, match=r"unhashable type: 'list'"):
        wq.enqueue_hashed([], int)  # type: ignore[arg-type]
    assert wq.stats().enqueued == 0


def test_a_key_that_enqueues_while_it_is_compared(wq: iowq.WorkQueue) -> None:
    inner: list[iowq.Work] = []

    class Reentrant(Colliding):
        def __eq__(self, other: object) -> bool:
            if len(inner) < 50:
                inner.append(wq.enqueue_hashed(Colliding(f"inner {len(inner)}"), int))
            return self is other

        __hash__ = Colliding.__hash__

    blocker = Blocker()
    wq.enqueue_hashed(Colliding("outer"), blocker)
    wq.enqueue_hashed(Reentrant("r"), int)
    wq.enqueue_hashed(Reentrant("s"), int)
    blocker.release()
    wq.flush()
    assert inner
    assert all(work.done() for work in inner)
    assert len(wq._keys) == 0


def test_keys_are_forgotten_with_their_last_work(wq: iowq.WorkQueue) -> None:
    for number in range(10_000):
        wq.enqueue_hashed(f"key {number}", int)
    wq.flush()
    assert len(wq._keys) == 0


def test_many_threads_and_keys() -> None:
    """The table of keys under threads that use the same few."""
    seen: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
    inside: defaultdict[int, int] = defaultdict(int)
    errors = []

    def work(key: int, producer: int, number: int) -> None:
        inside[key] += 1
        if inside[key] != 1:
            errors.append(key)
        seen[key, producer].append(number)
        inside[key] -= 1

    def produce(wq: iowq.WorkQueue, producer: int) -> None:
        rng = random.Random(producer)
        for number in range(3000):
            key = rng.randrange(5)
            wq.enqueue_hashed(Colliding(str(key)), work, key, producer, number)

    with iowq.WorkQueue(8) as wq:
        threads = [threading.Thread(target=produce, args=(wq, p)) for p in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not errors
    assert all(numbers == sorted(numbers) for numbers in seen.values())
    assert sum(map(len, seen.values())) == 12_000


def test_lines_of_real_files(tmp_path: Path) -> None:
    def append(path: Path, number: int) -> None:
        with path.open("ab", buffering=0) as file:
            file.write(b"%d:" % number)
            file.write(b"y" * 100 + b"\n")

    with iowq.WorkQueue(16) as wq:
        for number in range(200):
            for name in "abcdefgh":
                wq.enqueue_hashed(name, append, tmp_path / name, number)
    expected = b"".join(b"%d:" % n + b"y" * 100 + b"\n" for n in range(200))
    assert all((tmp_path / name).read_bytes() == expected for name in "abcdefgh")


def test_a_key_dies_with_its_work(wq: iowq.WorkQueue) -> None:
    import weakref

    key = Colliding("short-lived")
    reference = weakref.ref(key)
    wq.enqueue_hashed(key, int)
    wq.flush()
    del key
    wait_until(lambda: (gc.collect(), reference())[1] is None)


@pytest.mark.parametrize("method", ["__hash__", "__eq__"])
def test_a_key_whose_methods_fork(method: str) -> None:
    program = f"""
import iowq, os, sys, threading, warnings
warnings.simplefilter("ignore")  # there are threads
is_child = False
class Key:
    def __hash__(self):
        return 1
    def __eq__(self, other):
        return self is other
def fork(*args):
    global is_child
    pid = os.fork()
    if pid:
        assert os.waitpid(pid, 0)[1] == 0
    else:
        is_child = True
    return len(args) == 1  # as a hash, or for no other key
class Forking(Key):
    __hash__ = Key.__hash__
    {method} = fork
with iowq.WorkQueue(2) as wq:
    gate = threading.Event()
    wq.enqueue_hashed(Key(), gate.wait)
    second = wq.enqueue_hashed(Forking(), print, "ran")
    if is_child:
        wq.flush(10)
        assert second.done() and len(wq._keys) == 0
        sys.stdout.flush()
        os._exit(0)
    gate.set()
"""
    result = run_python(program)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.split() == ["ran", "ran"]
