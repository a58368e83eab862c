"""The interpreter's exit, and fork."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

import iowq
from support import DEADLINE, FREE_THREADED, Blocker, run_python


def test_exit_runs_pending_work() -> None:
    """Also work that starts a thread, which 3.12 refuses everyone at exit."""
    result = run_python("""
        import iowq, os, sys, threading, time
        def say(what):
            os.write(1, f"{what}\\n".encode())
        wq = iowq.WorkQueue(2)
        for n in range(200):
            wq.enqueue_hashed(n % 5, say, n)
        wq.enqueue(lambda: (time.sleep(0.2), say("slow")))
        if sys.version_info[:2] != (3, 12):
            wq.enqueue(lambda: threading.Thread(target=say, args=("thread",)).start())
        say("main ends")
    """)
    lines = result.stdout.split("\n")
    assert result.returncode == 0, result
    assert result.stderr == ""
    expected = {"main ends", "slow", "thread", "", *map(str, range(200))}
    assert set(lines) == expected - ({"thread"} if sys.version_info[:2] == (3, 12) else set())


def test_exit_of_a_worker_that_raises_system_exit_is_only_reported() -> None:
    result = run_python("""
        import iowq, sys
        wq = iowq.WorkQueue(1)
        wq.enqueue(sys.exit, 3)
        wq.enqueue(print, "after")
    """)
    assert result.returncode == 0
    assert result.stdout == "after\n"
    assert "SystemExit: 3" in result.stderr


def test_enqueue_during_exit_is_refused() -> None:
    result = run_python("""
        import atexit, iowq
        wq = iowq.WorkQueue(1)
        def late():
            try:
                wq.enqueue(print, "ran")
            except RuntimeError as error:
                print("refused:", error)
        atexit.register(late)
        wq.enqueue(print, "first")
    """)
    assert result.stdout.splitlines() == [
        "first",
        "refused: cannot schedule new futures or works after shutdown",
    ]


def _start_and_interrupt(code: str) -> tuple[int, str, str, float]:
    """The code says "ready" where the exit waits: a signal before that would not end it."""
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    begun = time.monotonic()
    process.send_signal(signal.SIGINT)
    try:
        out, err = process.communicate(timeout=DEADLINE)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return process.returncode, out, err, time.monotonic() - begun


def test_ctrl_c_ends_the_wait_at_exit_for_blocked_work() -> None:
    _code, out, err, seconds = _start_and_interrupt("""if True:
        import iowq, socket, threading, time

        def say_ready():
            while "closed" not in repr(wq):
                time.sleep(0.001)
            print("ready")

        ours, theirs = socket.socketpair()
        wq = iowq.WorkQueue(1)
        wq.enqueue(ours.recv, 1)
        wq.enqueue(print, "must not run")
        threading.Thread(target=say_ready, daemon=True).start()
    """)
    assert "KeyboardInterrupt" in err
    assert "must not run" not in out
    assert "Fatal" not in err
    assert seconds < 10


def test_unclosed_queues_end_with_the_process() -> None:
    result = run_python("""
        import iowq
        queues = [iowq.WorkQueue(2, idle_timeout=0.001) for _ in range(50)]
        for round in range(20):
            for wq in queues:
                wq.enqueue(int)
    """)
    assert (result.returncode, result.stderr) == (0, ""), result


# ---- stacks


def test_works_may_recurse_as_deep_as_the_interpreter_allows() -> None:
    """Whatever the C library's default: musl's is 128 KiB."""
    result = run_python("""
        import iowq, json
        with iowq.WorkQueue(1) as wq:
            print(type(wq.submit(json.loads, "[" * 100_000).exception()).__name__)
    """)
    assert result.stdout == "RecursionError\n", result


def test_workers_have_the_stack_size_of_threading() -> None:
    """As a ThreadPoolExecutor's; and the setting stays."""
    result = run_python("""
        import ctypes, iowq, threading
        libc = ctypes.CDLL(None)
        libc.pthread_self.restype = ctypes.c_void_p
        def stack_mib():
            attr = ctypes.create_string_buffer(64)
            size = ctypes.c_size_t()
            libc.pthread_getattr_np(ctypes.c_void_p(libc.pthread_self()), attr)
            libc.pthread_attr_getstacksize(attr, ctypes.byref(size))
            return round(size.value / 2**20)
        threading.stack_size(64 << 20)
        for _ in range(2):
            with iowq.WorkQueue(1) as wq:
                print(wq.submit(stack_mib).result())
        print(threading.stack_size(0) >> 20)
        with iowq.WorkQueue(1) as wq:
            print(wq.submit(stack_mib).result() != 64)
    """)
    assert result.stdout.split() == ["64", "64", "64", "True"], result


# ---- fork


def _in_child(child: object) -> None:
    """Forks; runs child() there; fails unless it returns."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            signal.alarm(int(DEADLINE))
            child()  # type: ignore[operator]
            code = 0
        finally:
            os._exit(code)
    _pid, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0


pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*")


def test_fork_with_a_busy_queue(blocker: Blocker) -> None:
    ran: list[int] = []
    with iowq.WorkQueue(1) as wq:
        running = wq.enqueue(blocker)
        blocker.wait_entered()
        pending = wq.enqueue_hashed("key", ran.append, 1)

        def child() -> None:
            assert not any(wq.stats()[:-2])  # all but waits and nodes
            assert pending.cancelled()
            assert wq.cancel(pending) is iowq.Cancel.NOTFOUND
            assert wq.cancel(running) is iowq.Cancel.NOTFOUND
            wq.enqueue_hashed("key", ran.append, 2)
            wq.flush(timeout=10)
            assert ran == [2]
            wq.close()

        for _ in range(5):
            _in_child(child)
        assert pending.pending()
        blocker.release()
        wq.flush()
        assert ran == [1]


def test_fork_at_any_moment() -> None:
    """Whoever holds the queue's lock, or the keys', at the fork."""
    with iowq.WorkQueue(4) as wq:

        def child() -> None:
            work = wq.enqueue_hashed("key", int)
            wq.flush(timeout=20)
            assert work.done()

        for _ in range(30):
            works = [wq.enqueue_hashed(n % 3, int) for n in range(300)]
            _in_child(child)
            wq.flush()
            assert not any(work.cancelled() for work in works)


def test_fork_keeps_closed_queues_closed() -> None:
    wq = iowq.WorkQueue(1)
    wq.close()

    def child() -> None:
        with pytest.raises(RuntimeError, match="after shutdown"):
            wq.enqueue(int)

    _in_child(child)


def test_a_work_that_only_forks() -> None:
    result = run_python("""
        import iowq, os, sys
        wq = iowq.WorkQueue(1)
        pids = []
        def fork():
            pids.append(os.fork())
        wq.enqueue(fork)
        wq.flush()
        print(os.waitstatus_to_exitcode(os.waitpid(pids[0], 0)[1]))
        work = wq.enqueue(int)
        wq.flush()
        print(work.done())
    """)
    assert result.stdout.split() == ["0", "True"], result


def test_multiprocessing_by_fork() -> None:
    result = run_python("""
        import iowq, multiprocessing
        wq = iowq.WorkQueue(2)
        def child(queue):
            wq.enqueue(queue.put, 42)
            wq.flush()
        if __name__ == "__main__":
            wq.enqueue(int)
            context = multiprocessing.get_context("fork")
            queue = context.Queue()
            process = context.Process(target=child, args=(queue,))
            process.start()
            print(queue.get(timeout=20))
            process.join()
            print(process.exitcode)
    """)
    assert result.stdout.split() == ["42", "0"], result


def test_fork_renews_queues_that_are_equal() -> None:
    class Equal(iowq.WorkQueue):
        def __eq__(self, other: object) -> bool:
            return isinstance(other, Equal)

        def __hash__(self) -> int:
            return 1

    queues = [Equal(1), Equal(1)]

    def child() -> None:
        works = [wq.enqueue(int) for wq in queues]
        for wq in queues:
            wq.flush(timeout=10)
        assert all(work.done() for work in works)

    _in_child(child)
    for wq in queues:
        wq.close()


def test_a_work_that_forks_lets_the_child_use_threads() -> None:
    """In the child, its thread ends without keeping the interpreter's lock."""
    result = run_python("""
        import iowq, os, threading, time
        wq = iowq.WorkQueue(1)
        pids = []
        def fork():
            pid = os.fork()
            if pid:
                pids.append(pid)
            else:
                threading.Thread(target=lambda: (time.sleep(0.2), os._exit(7))).start()
        wq.enqueue(fork)
        wq.flush()
        print(os.waitstatus_to_exitcode(os.waitpid(pids[0], 0)[1]))
    """)
    assert result.stdout.split() == ["7"], result


def test_no_queue_is_made_at_exit() -> None:
    result = run_python("""
        import iowq, threading

        def late():
            threading.main_thread().join(0.1)
            while True:
                iowq.WorkQueue(2).submit(int).result()

        wq = iowq.WorkQueue(2)
        wq.enqueue(late)
        wq.enqueue(print, "works")
    """)
    assert result.stdout == "works\n"
    assert "RuntimeError: can't create a queue: the interpreter exits" in result.stderr


def test_queues_are_listed_while_others_come_and_go() -> None:
    stop = threading.Event()

    def make() -> None:
        while not stop.is_set():
            iowq.WorkQueue(1)

    threads = [threading.Thread(target=make) for _ in range(2)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for _ in range(300):
            iowq._executor.registry.queues()
    finally:
        sys.setswitchinterval(interval)
        stop.set()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize("kind", ["legacy", "isolated"])
def test_a_subinterpreter_leaves_it_to_the_main_one(kind: str) -> None:
    result = run_python(f"""
        import iowq
        try:
            import _interpreters as interpreters
        except ImportError:
            import _xxsubinterpreters as interpreters
        try:
            one = interpreters.create("{kind}")
        except TypeError:
            one = interpreters.create(isolated="{kind}" == "isolated")
        with iowq.WorkQueue(1) as wq:
            code = "try:\\n import iowq\\nexcept ImportError: pass\\nelse: raise SystemError"
            interpreters.run_string(one, code)
            print(wq.submit(pow, 2, 3).result())
        interpreters.destroy(one)
    """)
    assert result.stdout == "8\n", result.stderr


def test_threadings_trace_and_profile_functions_see_works() -> None:
    result = run_python("""
        import iowq, sys, threading
        seen = {"trace": set(), "profile": set()}

        def watch(kind):
            return lambda frame, event, arg: seen[kind].add(frame.f_code.co_name)

        def work(): pass

        threading.settrace(watch("trace"))
        threading.setprofile(watch("profile"))
        with iowq.WorkQueue(1) as wq:
            wq.submit(work).result()
        print("work" in seen["trace"], "work" in seen["profile"])
    """)
    assert result.stdout == "True True\n", result.stderr


@pytest.mark.parametrize("use", ["close()", "submit(int)", "stats()", "hashed(1).enqueue(int)"])
def test_among_garbage_a_queue_can_be_used_to_the_end(use: str) -> None:
    """By the finalizers of what is collected with it, in whatever order they are called."""
    result = run_python(
        f"""
        import gc, iowq
        class Service:
            def __init__(self, wq):
                self.wq = wq
                self.cycle = self
            def __del__(self):
                self.wq.{use}
                print("finalized")
        gc.disable()
        wq = iowq.WorkQueue(2)
        wq.submit(int).result()
        wq.flush()  # the worker has let go of the queue
        service = Service(wq)
        wq.cycle = [wq, service]
        del wq, service
        gc.collect()
        """,
        MALLOC_PERTURB_="77",  # freed memory is overwritten
    )
    assert result.stdout == "finalized\n", result


@pytest.mark.skipif(FREE_THREADED, reason="calls none at exit for cycles, once there were threads")
def test_a_finalizer_at_exit_finds_its_queue_closed() -> None:
    result = run_python("""
        import iowq
        class Last:
            def __del__(self):
                try:
                    self.wq.submit(int)
                except RuntimeError as error:
                    print(error)
        last = Last()
        last.wq = iowq.WorkQueue(2)
        last.wq.cycle = [last.wq, last]
        last.wq.submit(int).result()
    """)
    assert "after shutdown" in result.stdout, result
