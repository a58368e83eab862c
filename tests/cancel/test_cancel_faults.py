"""Cancel where one wouldn't expect it: forks, exits, debuggers, closed queues."""

from __future__ import annotations

import faulthandler
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import pytest

import iowq
from iowq._diagnose.demo import BlockedRead
from support import FREE_THREADED, run_python, wait_until


def _loop() -> None:
    while True:
        pass


def test_cancel_in_a_forked_child() -> None:
    """The parent's work isn't the child's to cancel; the parent's goes on."""
    with iowq.WorkQueue(2) as wq:
        works = [wq.enqueue(_loop), wq.enqueue(threading.Event().wait)]
        wait_until(lambda: all(work.running() for work in works))
        child = os.fork()
        if child == 0:
            wq.cancel_all()
            ok = wq.cancel(works[0]) is iowq.Cancel.NOTFOUND
            own = wq.enqueue(_loop)
            wait_until(own.running)
            wq.cancel(own)
            wait_until(own.done)
            os._exit(0 if ok and own.cancelled() else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert all(work.running() for work in works)
        wq.cancel_all()
        wq.flush(timeout=10)
        assert all(work.cancelled() for work in works)


def test_a_cancelled_work_that_forks() -> None:
    """A safepoint that is armed in the parent does nothing in the child."""
    codes: list[int] = []
    shielded = threading.Event()

    def work() -> None:
        with iowq.shield():
            shielded.set()
            while not iowq.cancel_requested():
                time.sleep(0.001)
            child = os.fork()
            if child == 0:
                total = sum(n for n in range(10_000))
                os._exit(0 if total else 1)
            codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

    with iowq.WorkQueue(1) as wq:
        running = wq.enqueue(work)
        wait_until(shielded.is_set)
        wq.cancel(running)
        wq.flush(timeout=20)
    assert codes == [0]


def test_cancel_of_a_closed_queues_work() -> None:
    wq = iowq.WorkQueue(1)
    work = wq.enqueue(int)
    wq.close()
    assert wq.cancel(work) is iowq.Cancel.NOTFOUND
    assert wq.cancel_if(lambda _work: True) is iowq.Cancel.NOTFOUND
    wq.cancel_all()
    assert wq.workers() == []


@pytest.mark.parametrize("endless", ["while True: pass", "threading.Event().wait()"])
def test_ctrl_c_at_exit_ends_what_runs(endless: str) -> None:
    result = run_python(f"""
        import iowq, os, signal, threading, time

        def work():
            try:
                {endless}
            finally:
                print("cleaned up", flush=True)

        def interrupt_the_exit():  # a signal before it would not end its wait
            while "closed" not in repr(wq):
                time.sleep(0.001)
            os.kill(os.getpid(), signal.SIGINT)

        wq = iowq.WorkQueue(2)
        running = wq.enqueue(work)
        while not running.running():
            time.sleep(0.001)
        threading.Thread(target=interrupt_the_exit, daemon=True).start()
    """)
    assert "Fatal" not in result.stderr
    assert "KeyboardInterrupt" in result.stderr
    assert result.returncode >= 0, result.stderr


def test_exit_right_after_cancel() -> None:
    for _ in range(5):
        result = run_python("""
            import iowq, threading, time
            wq = iowq.WorkQueue(8)
            def loop():
                while True: len([])
            works = [wq.enqueue(f) for f in (loop, threading.Event().wait) * 4]
            while not all(work.running() for work in works):
                time.sleep(0.001)
            wq.cancel_all()
        """)
        assert result.returncode == 0, result.stderr
        assert result.stderr == ""


@pytest.mark.parametrize("tool", [["strace", "-f", "-qq", "-o", "/dev/null", "-p"], ["gdb"]])
def test_with_a_debugger_attached(tool: list[str], tmp_path: Path) -> None:
    """It stops the threads, and sees each signal first."""
    if shutil.which(tool[0]) is None:
        pytest.fail(f"{tool[0]} is not installed; tests/packages.txt names what is needed")
    script = tmp_path / "script.py"
    script.write_text("""if True:
        import iowq, socket, sys, threading, time

        def loop():
            while True: pass

        ours, theirs = socket.socketpair()
        print("ready", flush=True)
        sys.stdin.readline()
        with iowq.WorkQueue(4) as wq:
            for n in range(30):
                works = [wq.enqueue(f) for f in (loop, threading.Event().wait)]
                works.append(wq.enqueue(ours.recv, 1))
                while not all(work.running() for work in works):
                    time.sleep(0.001)
                wq.cancel_all()
                wq.flush(timeout=20)
                assert all(work.cancelled() for work in works)
        print("done", flush=True)
    """)
    with subprocess.Popen(
        [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        if tool == ["gdb"]:
            commands = ["set pagination off", "handle all nostop noprint pass", "continue"]
            command = ["gdb", "-q", "-batch", "-p", str(child.pid)]
            command += [part for line in commands for part in ("-ex", line)]
        else:
            command = [*tool, str(child.pid)]
        debugger = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            status = Path(f"/proc/{child.pid}/status")
            wait_until(lambda: "TracerPid:\t0\n" not in status.read_text())
            child.stdin.write("\n")
            child.stdin.flush()
            assert child.stdout.readline() == "done\n"
            assert child.wait(30) == 0
        finally:
            child.kill()
            debugger.kill()
            debugger.wait()


def test_with_faulthandler(tmp_path: Path) -> None:
    was_enabled = faulthandler.is_enabled()
    with (tmp_path / "dump").open("w+") as file, iowq.WorkQueue(2) as wq:
        faulthandler.enable(file)
        faulthandler.register(signal.SIGUSR2, file, all_threads=True)
        try:
            for _ in range(20):
                works = [wq.enqueue(_loop), wq.enqueue(threading.Event().wait)]
                wait_until(lambda works=works: all(work.running() for work in works))  # type: ignore[misc]
                os.kill(os.getpid(), signal.SIGUSR2)
                wq.cancel_all()
                wq.flush(timeout=10)
                assert all(work.cancelled() for work in works)
        finally:
            faulthandler.unregister(signal.SIGUSR2)
            faulthandler.disable()
            if was_enabled:
                faulthandler.enable()


def test_child_processes_inherit_nothing() -> None:
    """No mask, and no ignored signals: SIGTERM ends them."""
    masks: list[str] = []

    def start_and_end_a_child() -> None:
        with subprocess.Popen(["sleep", "60"]) as child:
            masks.append(Path(f"/proc/{child.pid}/status").read_text())
            child.terminate()

    with iowq.WorkQueue(1) as wq:
        wq.enqueue(start_and_end_a_child)
        wq.flush(timeout=20)
    fields = dict(line.split(":\t", 1) for line in masks[0].splitlines())
    assert int(fields["SigBlk"], 16) == 0


def test_process_signals_reach_the_main_thread() -> None:
    """While all workers are being cancelled."""
    seen: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda *_: seen.append(threading.get_native_id()))
    ours, theirs = socket.socketpair()
    try:
        with ours, theirs, iowq.WorkQueue(4) as wq:
            for n in range(50):
                works = [wq.enqueue(BlockedRead(ours)) for _ in range(4)]
                wait_until(lambda works=works: all(work.running() for work in works))  # type: ignore[misc]
                wq.cancel_all()
                os.kill(os.getpid(), signal.SIGTERM)
                wait_until(lambda n=n: len(seen) > n)  # type: ignore[misc]
                wq.flush(timeout=10)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert set(seen) == {threading.get_native_id()}


def _is_gone(wq: iowq.WorkQueue, ref: weakref.ref[Any]) -> bool:
    if FREE_THREADED:  # what a thread has made, and others let go of, is freed when it runs again
        wq.enqueue(int)
    return ref() is None


def test_no_reference_is_kept() -> None:
    """Of frames looked at, nor of the work."""

    class Big:
        pass

    refs: list[weakref.ref[Big]] = []

    def work() -> None:
        big = Big()
        refs.append(weakref.ref(big))
        while True:
            len([])

    with iowq.WorkQueue(1) as wq:
        running = wq.enqueue(work)
        wait_until(lambda: refs)
        wq.cancel(running)
        wq.flush(timeout=10)
        wait_until(lambda: _is_gone(wq, refs[0]))
        ref = weakref.ref(running)
        del running
        wait_until(lambda: _is_gone(wq, ref))


def test_an_interpreter_of_another_name(tmp_path: Path) -> None:
    """A program that embeds or copies it: it is known by what is in it."""
    program = tmp_path / "myapp"
    shutil.copy(Path(sys.executable).resolve(), program)
    code = """if True:
        import iowq, os, threading, time
        read, write = os.pipe()
        with iowq.WorkQueue(3) as wq:
            works = [wq.enqueue(os.read, read, 1), wq.enqueue(threading.Event().wait)]
            works += [wq.enqueue(time.sleep, 60)]
            while not works[-1].running():
                time.sleep(0.001)
            time.sleep(0.05)
            wq.cancel_all()
            wq.flush(timeout=10)
        print(all(work.cancelled() for work in works))
    """
    result = subprocess.run(
        [program, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={
            **os.environ,
            "PYTHONHOME": sys.base_prefix,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        },
    )
    assert result.stdout == "True\n", result.stdout + result.stderr


def test_code_in_a_subinterpreter_goes_on() -> None:
    """The signal can't be sent; the work ends once it is back."""
    result = run_python("""
        import iowq, os, sys, time
        try:
            import _interpreters as interpreters
        except ImportError:
            import _xxsubinterpreters as interpreters
        read, write = os.pipe()
        one = interpreters.create()
        code = f"import os, time\\nos.write({write}, b'begun')\\nt = time.time()\\n"
        code += "while time.time() < t + 0.5: pass\\n"
        # not threading: up to 3.12 it would hang at the end, in a thread of any kind
        code += f"import _thread\\nwith _thread.allocate_lock(): os.write({write}, b'ended')"

        def work():
            interpreters.run_string(one, code)
            while True:
                pass

        with iowq.WorkQueue(1) as wq:
            running = wq.enqueue(work)
            print(os.read(read, 5))
            wq.cancel(running)
            wq.flush(timeout=20)
            print(os.read(read, 5), running.cancelled())
        interpreters.destroy(one)
    """)
    assert result.stdout == "b'begun'\nb'ended' True\n", result.stdout + result.stderr
