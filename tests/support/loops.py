"""Event loops of asyncio's kind, for a test each."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
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
