"""Event loops of asyncio's kind, for a test each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from support import DEADLINE

Run = Callable[[Coroutine[Any, Any, object]], None]


def _run(new_loop: Callable[[], asyncio.AbstractEventLoop], main: Coroutine[Any, Any, Any]) -> None:
    """asyncio.run for any loop, which 3.10 doesn't have."""
    loop = new_loop()
    try:
        loop.run_until_complete(asyncio.wait_for(main, 2 * DEADLINE))
    finally:
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a coroutine in a new event loop."""
    return lambda main: _run(request.param, main)
