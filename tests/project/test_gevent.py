"""What docs/questions.md says of gevent."""

from __future__ import annotations

import subprocess
import sys

AFTER_PATCHING = """
from gevent import monkey
monkey.patch_all()
try:
    import iowq
except AttributeError as error:
    print(error)
"""

FIRST_QUEUE_AFTER_PATCHING = """
import iowq
from gevent import monkey
monkey.patch_all()
try:
    iowq.WorkQueue()
except AttributeError as error:
    print(error)
"""

BESIDE = """
import time
import gevent
from gevent.event import Event
import iowq

def await_(future):
    ended, watcher = Event(), gevent.get_hub().loop.async_()
    watcher.start(ended.set)
    future.add_done_callback(lambda _: watcher.send())
    ended.wait(30)
    watcher.close()
    return future

def count():
    while True:
        seen.append(1)
        gevent.sleep(0.001)

seen = []
counting = gevent.spawn(count)
with iowq.WorkQueue() as wq:
    await_(wq.submit(time.sleep, 0.2))
    went_on = len(seen)
    read = wq.submit(time.sleep, 1000)
    while not read.running():
        gevent.sleep(0.001)
    read.cancel()
    print(went_on > 10, await_(read).cancelled())
counting.kill()
"""


def _output(program: str) -> str:
    command = [sys.executable, "-c", program]
    return subprocess.run(command, check=True, timeout=60, stdout=subprocess.PIPE, text=True).stdout


def test_patched_it_cannot_be_used() -> None:
    told = "module 'select' has no attribute 'epoll'\n"
    assert _output(AFTER_PATCHING) == told
    assert _output(FIRST_QUEUE_AFTER_PATCHING) == told


def test_beside_it_works() -> None:
    assert _output(BESIDE) == "True True\n"
