"""What cancel_support() says is what happens."""

from __future__ import annotations

import sys

import pytest

import iowq
from iowq._diagnose import cancel_support
from iowq._diagnose.cancel_support import TESTED
from iowq._executor import first_queue
from support import DEADLINE, run_python


def test_all_is_ended_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cancel_support, "PATIENCE", DEADLINE)  # the machine may be busy
    iowq.cancel_support.cache_clear()
    support = iowq.cancel_support()
    assert support.problems == ()
    assert support.system_calls
    assert support.python_code
    assert support.waits


def test_it_is_measured() -> None:
    """Here the hidden queue's signal gets another handler once its works have begun."""
    result = run_python("""
        import iowq, signal
        from iowq._diagnose import cancel_support as module

        class Stolen(iowq.WorkQueue):
            def cancel_all(self):
                for number in range(signal.SIGRTMIN, signal.SIGRTMAX + 1):
                    signal.signal(number, lambda *_: None)
                super().cancel_all()

        module.WorkQueue = Stolen
        module.PATIENCE = 5  # the machine may be busy
        support = iowq.cancel_support()
        print(support.system_calls, support.waits, support.python_code)
        print(len(support.problems), "os.read" in support.problems[0])
    """)
    lines = result.stdout.splitlines()
    assert lines[0] == "False False True", result.stdout + result.stderr
    assert lines[1].endswith("True")


def test_where_no_queue_can_be_made() -> None:
    """After a program has set handlers of its own for all signals."""
    result = run_python("""
        import iowq, signal
        for number in range(signal.SIGRTMIN, signal.SIGRTMAX + 1):
            signal.signal(number, signal.SIG_IGN)
        support = iowq.cancel_support()
        print(support.system_calls, support.waits, support.python_code, support.problems)
    """)
    assert result.stdout.startswith("False False False ('there can be no queue to try it")


def test_a_cancel_without_effect_is_told() -> None:
    """By a warning, if it is the machine's fault: here, a handler in the place of iowq's."""
    result = run_python("""
        import iowq, os, signal, threading, time, warnings
        read, write = os.pipe()
        told = []
        warnings.showwarning = lambda message, *_: told.append(str(message))
        warnings.simplefilter("always")
        wq = iowq.WorkQueue(1)
        work = wq.enqueue(os.read, read, 1)
        while not work.running():
            time.sleep(0.001)
        for number in range(signal.SIGRTMIN, signal.SIGRTMAX + 1):
            signal.signal(number, signal.SIG_IGN)
        wq.cancel(work)
        while not any("another handler" in text for text in told):
            time.sleep(0.01)
        os.write(write, b"x")
        wq.close()
        print(told)
    """)
    assert "has another handler by now" in result.stdout, result.stdout + result.stderr


def test_versions_that_were_tried() -> None:
    """A version that nobody has tried says so."""
    notes = iowq.cancel_support().notes
    known = {version[:2]: version for version in TESTED}
    newest = known.get(sys.version_info[:2])
    assert bool(notes) == (newest is None or sys.version_info[:3] > newest)
    for other in ((3, 9, 0), (3, 11, 99), (3, 99, 0)):
        result = run_python(f"""
            import collections, iowq, sys
            sys.version_info = collections.namedtuple("V", "major minor micro")(*{other})
            print(iowq.cancel_support().notes)
        """)
        assert "nobody has tried cpython" in result.stdout, result.stdout + result.stderr


def test_a_warning_names_who_makes_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_queue, "missing", lambda: ["this"])
    first_queue.warn_once.cache_clear()
    with pytest.warns(RuntimeWarning, match="cannot cancel all running work: this") as caught:
        iowq.WorkQueue(1).close()
    assert [warning.filename for warning in caught] == [__file__]
    iowq.WorkQueue(1).close()  # the first one has said it
