"""Bad input, which is refused at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import iowq
from iowq import asgi
from iowq.starlette import runs_on


async def app(_scope: asgi.Scope, _receive: asgi.Receive, _send: asgi.Send) -> None:
    """Answers nobody."""


@pytest.mark.parametrize("timeout", ["1", True, float("nan")])
def test_timeout(timeout: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"^timeout must be a number of seconds, not"):
        asgi.Middleware(app, timeout=timeout)


async def coroutine_function() -> None:
    """Blocks nobody."""


def generator_function() -> Iterator[int]:
    yield 1


@pytest.mark.parametrize("fn", [coroutine_function, generator_function, 1])
def test_endpoint(fn: Any, wq: iowq.WorkQueue) -> None:
    with pytest.raises(TypeError, match=r"^fn must be "):
        runs_on(wq)(fn)
