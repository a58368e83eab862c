"""What Celery's workers run in the tests. Tasks and handlers note in Redis what they see."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import redis
from celery import Celery, Task, signals
from celery.exceptions import SoftTimeLimitExceeded
from celery.result import allow_join_result

from iowq._celery import job

job.PATIENCE = 0.5  # which would be the tests'
_notes = redis.Redis(unix_socket_path=os.environ["IOWQ_NOTES"])

app = Celery("iowq-tests", broker=os.environ["IOWQ_BROKER"], backend=os.environ["IOWQ_BACKEND"])
app.conf.worker_pool = os.environ["IOWQ_POOL"]
app.conf.broker_connection_retry_on_startup = True
app.conf.broker_connection_retry_delay = 0.1
app.conf.worker_soft_shutdown_timeout = float(os.environ.get("IOWQ_SOFT_SHUTDOWN", 0))
app.conf.worker_cancel_long_running_tasks_on_connection_loss = True
if folder := os.environ.get("IOWQ_FOLDER"):
    app.conf.broker_transport_options = {
        "data_folder_in": folder,
        "data_folder_out": folder,
        "control_folder": folder,
        "polling_interval": 0.05,
    }


def note(about: str | None, what: str) -> None:
    _notes.rpush(str(about), what)


# ---- what blocks or computes for ever


def _sleep() -> None:
    time.sleep(1000)


def _recv() -> None:
    here, _there = socket.socketpair()
    here.recv(1)


def _wait_for_a_lock() -> None:
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


def _wait_for_an_event() -> None:
    threading.Event().wait()


def _compute() -> None:
    while True:
        hashlib.sha256(b"iowq").digest()


def _wait_for_a_child() -> None:
    subprocess.run([sys.executable, "-c", "import time; time.sleep(1000)"], check=True)


def _swallow_exceptions() -> None:
    while True:
        try:
            time.sleep(1000)
        except Exception as error:
            note("swallowed", type(error).__name__)


WAYS: dict[str, Callable[[], None]] = {
    "sleep": _sleep,
    "recv": _recv,
    "lock": _wait_for_a_lock,
    "event": _wait_for_an_event,
    "compute": _compute,
    "child": _wait_for_a_child,
    "swallow": _swallow_exceptions,
}


def _go(task: Task[..., Any], way: str) -> None:
    """Notes what it sees, that it cleans up, and that it went on."""
    about = task.request.id
    note(about, "begun")
    try:
        WAYS[way]()
    except BaseException as error:
        note(about, type(error).__name__)
        raise
    finally:
        note(about, "cleaned up")


# ---- tasks


@app.task
def add(a: int, b: int) -> int:
    return a + b


@app.task(bind=True)
def go(self: Task[..., Any], way: str) -> None:
    _go(self, way)


@app.task(bind=True, autoretry_for=(Exception,), retry_kwargs={"countdown": 0, "max_retries": 3})
def go_with_retries(self: Task[..., Any], way: str) -> None:
    _go(self, way)


@app.task(bind=True, acks_late=True)
def go_acked_late(self: Task[..., Any], way: str) -> None:
    _go(self, way)


@app.task(bind=True, acks_late=True, acks_on_failure_or_timeout=False)
def go_once(self: Task[..., Any], way: str) -> str:
    """Returns when it is delivered again."""
    if (self.request.delivery_info or {}).get("redelivered"):
        return "redelivered"
    _go(self, way)
    return "not ended"


@app.task(bind=True)
def take_hint(self: Task[..., Any], way: str) -> str:
    try:
        _go(self, way)
    except SoftTimeLimitExceeded:
        return "cleaned up in time"
    return "not ended"


@app.task(bind=True)
def hold(self: Task[..., Any], name: str) -> str:
    """Runs until something is pushed to the list of that name."""
    note(self.request.id, "begun")
    _notes.blpop([name])
    return "done"


@app.task(bind=True, acks_late=True)
def hold_acked_late(self: Task[..., Any], name: str) -> str:
    note(self.request.id, "begun")
    _notes.blpop([name])
    note(self.request.id, "done")
    return "done"


@app.task(bind=True, acks_late=True, max_retries=2, default_retry_delay=0)
def retry(self: Task[..., Any]) -> int:
    key = (self.request.headers or {}).get("iowq_key")
    note(self.request.id, f"try {self.request.retries} of {key}")
    if self.request.retries < 2:
        raise self.retry(exc=ValueError("not yet"))
    return int(self.request.retries)


@app.task
def fail() -> None:
    raise ValueError("on purpose")


@app.task
def leave() -> None:
    raise SystemExit(3)


@app.task
def append(key: str, number: int) -> None:
    """Works of one key would overlap, or change places, if their order weren't kept."""
    time.sleep(0.002 if number % 3 else 0.01)
    note(f"order of {key}", str(number))


@app.task
def fork(returns: bool) -> int:
    child = os.fork()
    if child == 0:
        if returns:
            return -1  # as the child: nobody must hear of that
        os._exit(7)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@app.task(bind=True)
def start_a_thread(self: Task[..., Any]) -> None:
    about = self.request.id
    released = threading.Event()

    def run() -> None:
        released.wait(60)
        note(about, "the thread went on")

    threading.Thread(target=run, daemon=True).start()
    note(about, "begun")
    try:
        time.sleep(1000)
    finally:
        released.set()


@app.task(bind=True)
def publish(self: Task[..., Any]) -> None:
    """Sends tasks, and asks for their results, over connections that all tasks share."""
    note(self.request.id, "begun")
    try:
        while True:
            result = add.delay(1, 2)
            with allow_join_result():
                answer = result.get(timeout=60)
            if answer != 3:
                note(self.request.id, f"another's answer: {answer}")
    finally:
        note(self.request.id, "cleaned up")


@app.task(bind=True)
def go_on_and_on(self: Task[..., Any], name: str) -> None:
    """Can't be ended, until something is pushed to the list of that name."""
    note(self.request.id, "begun")
    _go_on(name)


def _go_on(name: str) -> None:
    try:
        while not _notes.exists(name):
            time.sleep(0.01)
    except BaseException:
        _go_on(name)


# ---- what Celery tells


@signals.worker_ready.connect
def _ready(sender: Any, **_: Any) -> None:
    note(f"ready {sender.hostname}", str(os.getpid()))


@signals.task_revoked.connect
def _revoked(request: Any, terminated: bool, expired: bool, **_: Any) -> None:
    note(f"signals {request.id}", f"revoked {terminated=} {expired=}")


@signals.task_failure.connect
def _failure(task_id: str, exception: BaseException, **_: Any) -> None:
    note(f"signals {task_id}", f"failure {type(exception).__name__}")


@signals.task_retry.connect
def _retry(request: Any, **_: Any) -> None:
    note(f"signals {request.id}", "retry")


@signals.task_postrun.connect
def _postrun(task_id: str, state: str | None, **_: Any) -> None:
    note(f"signals {task_id}", f"postrun {state}")
