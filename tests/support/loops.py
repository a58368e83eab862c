"""Event loops of asyncio's kind, for a test each."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest

from support import DEADLINE, FREE_THREADED

Run = Callable[[Coroutine[Any, Any, object]], None]

#: uvloop can't be built for the first of the free-threaded builds.
NEW_LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
if not FREE_THREADED or sys.version_info >= (3, 14):
    import uvloop

    NEW_LOOPS["uvloop"] = uvloop.new_event_loop

each_loop = pytest.mark.parametrize("new_loop", NEW_LOOPS.values(), ids=list(NEW_LOOPS))


def _run(new_loop: Callable[[], asyncio.AbstractEventLoop], main: Coroutine[Any, Any, Any]) -> None:
    """asyncio.run for any loop, which 3.10 doesn't have."""
    loop = new_loop()
    try:
        loop.run_until_complete(asyncio.wait_for(main, 2 * DEADLINE))
    finally:
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


@pytest.fixture(params=NEW_LOOPS.values(), ids=list(NEW_LOOPS))
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a coroutine in a new event loop."""
    return lambda main: _run(request.param, main)


async def until(condition: Callable[[], object]) -> None:
    """Waits on a loop until the condition holds."""
    give_up = asyncio.get_running_loop().time() + DEADLINE
    while not condition():
        assert asyncio.get_running_loop().time() < give_up
        await asyncio.sleep(0.001)


class AlarmError(Exception):
    """Is logged if it is raised in a loop's callback, and the loop goes on."""


class BaseAlarmError(BaseException):
    """Ends the loop's turn."""


class Alarms:
    """A loop on which a handler of signals raises."""

    def __init__(self, error: type[BaseException]) -> None:
        self.loop = asyncio.new_event_loop()
        self.raised = 0
        self._error = error

    def run_forever(self, seconds: float) -> None:
        """For 5 ms, with an alarm at whatever instruction is reached after so many seconds."""
        stop = self.loop.call_later(0.005, self.loop.stop)
        try:
            signal.setitimer(signal.ITIMER_REAL, seconds)
            self.loop.run_forever()
        except self._error:
            pass
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            stop.cancel()

    def ring(self, _number: int, frame: FrameType | None) -> None:
        """Not between the loop's turns, where asyncio notes whether it runs: it can't take that."""
        while frame:
            if frame.f_code.co_name == "_run_once":
                self.raised += 1
                raise self._error
            frame = frame.f_back


@contextmanager
def alarms(error: type[BaseException]) -> Iterator[Alarms]:
    alarms = Alarms(error)
    before = signal.signal(signal.SIGALRM, alarms.ring)
    try:
        yield alarms
    finally:
        signal.signal(signal.SIGALRM, before)
        alarms.loop.close()
    assert alarms.raised
