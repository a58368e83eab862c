"""Those who wait for admission to a full queue, when exceptions come at any instruction."""

from __future__ import annotations

import random
import signal

import iowq
from support import Blocker, wait_until


class _AlarmError(Exception):
    pass


def test_a_signal_handler_that_raises_leaves_the_line_in_order(blocker: Blocker) -> None:
    """Whoever gave up is not waited for, and whoever comes after it gets in."""

    def ring(*_args: object) -> None:
        raise _AlarmError

    seconds = random.Random(1)
    gave_up = alarms = 0
    before = signal.signal(signal.SIGALRM, ring)
    try:
        with iowq.WorkQueue(1, max_pending=1, full_timeout=0.002) as wq:
            wq.enqueue(blocker)
            blocker.wait_entered()
            wq.enqueue(int)
            for _ in range(1000):
                try:
                    try:
                        signal.setitimer(signal.ITIMER_REAL, seconds.uniform(0.0015, 0.0025))
                        wq.enqueue(int)
                    except iowq.WorkQueueFull:
                        gave_up += 1
                    signal.setitimer(signal.ITIMER_REAL, 0)
                except _AlarmError:
                    alarms += 1
            assert alarms
            assert gave_up + alarms >= 1000
            blocker.release()
            wait_until(lambda: wq.stats().pending == 0)
            assert wq.submit(abs, -1).result(10) == 1
            assert not wq._admission._waiters
    finally:
        signal.signal(signal.SIGALRM, before)
