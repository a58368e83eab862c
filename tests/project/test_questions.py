"""What docs/questions.md says of C extensions and of gevent."""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import iowq
from support import wait_until

EXTENSION = """
#include <errno.h>
#include <unistd.h>

int read_one(int fd, int patient)
{
	char byte;

	for (;;)
		if (read(fd, &byte, 1) >= 0 || !patient || errno != EINTR)
			return errno;
}
"""


def _build(folder: Path, name: str) -> ctypes.CDLL:
    source, library = folder / "extension.c", folder / name
    source.write_text(EXTENSION)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source], check=True)
    return ctypes.CDLL(str(library))


def _cancel_in_read(fn: Callable[[], object]) -> None:
    """Cancels a work that is blocked in `read`, and waits for its end."""
    with iowq.WorkQueue() as wq:
        work = wq.enqueue(fn)
        wait_until(lambda: any("read(" in str(worker.blocked_in) for worker in wq.workers()))
        wq.cancel(work)


def test_a_c_extension_sees_eintr_unless_it_is_said_to_take_any_error(
    tmp_path: Path, pipe: tuple[int, int]
) -> None:
    extension, errors = _build(tmp_path, "_myextension.so"), []
    _cancel_in_read(lambda: errors.append(extension.read_one(pipe[0], 0)))
    iowq.shut_down_after_cancel("_myextension", False)
    _cancel_in_read(lambda: errors.append(extension.read_one(pipe[0], 0)))
    assert errors == [errno.EINTR, errno.ECANCELED]


def test_a_c_extension_that_tries_again_is_ended_in_its_own_way(
    tmp_path: Path, pipe: tuple[int, int]
) -> None:
    extension = _build(tmp_path, "_patient.so")

    def read() -> None:
        with iowq.on_cancel(os.write, pipe[1], b"x"):
            extension.read_one(pipe[0], 1)

    _cancel_in_read(read)


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
