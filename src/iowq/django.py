"""For Django under ASGI: sync views end when their client hangs up, or their time is up.

In ``asgi.py``::

    application = iowq.django.Middleware(get_asgi_application(), timeout=30)
    connection_created.connect(iowq.django.end_queries)

Django cancels the view of a client that has hung up, and asgiref what it runs on another thread:
but a ``ThreadPoolExecutor``, which it has one of for each request, can't end what runs. So
each request gets a queue instead, with the one thread that Django's rules ask for. Async views'
``sync_to_async``, and the ORM's async methods, run there, too.

Needs asgiref 3.13 or newer, whose ``ThreadSensitiveContext`` takes an executor.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from asgiref.sync import ThreadSensitiveContext

from . import asgi
from ._cancel.on_cancel import on_cancel
from ._executor.queue import WorkQueue
from ._report.topology import topology

if TYPE_CHECKING:
    from ._work.work import Work

__all__ = ["Middleware", "end_queries"]


class Middleware:
    """ASGI middleware around Django's application.

    :param timeout: as that of :class:`iowq.asgi.Middleware`: seconds; None: no limit.
    """

    def __init__(self, app: asgi.App, timeout: float | None = None) -> None:  # noqa: D107
        self._app = app
        self._ending = asgi.Middleware(self._on_own_queue, timeout)

    async def __call__(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        """Serves one connection."""
        app = self._ending if scope["type"] == "http" else self._app
        await app(scope, receive, send)

    async def _on_own_queue(
        self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send
    ) -> None:
        queue = WorkQueue(1, "iowq-django", nodes=_one_node())
        request = asgi.current_request()
        assert request
        try:
            with request.ending(functools.partial(_end_works, queue)):
                async with ThreadSensitiveContext(executor=queue):
                    await self._app(scope, receive, send)
        except BaseException:
            queue.cancel_all()
            raise
        finally:
            queue.shutdown(wait=False)


#: Turns of the event loop within which Django, once told, has cancelled its view: it takes four.
_TURNS = 20


def _end_works(queue: WorkQueue) -> None:
    """Ends what runs now, should Django not do so.

    Behind a middleware that is sync only asgiref cancels the view's part on the event loop, and
    waits for the thread. Django goes first, since a view that ends as cancelled before is
    an error to it. What it runs after that, as receivers of ``request_finished``, goes on.
    """
    loop = asyncio.get_running_loop()
    works: set[Work] = set()
    queue.cancel_if(works.add)  # asked about all, which it says no to

    def end(turns: int) -> None:
        if turns:
            loop.call_soon(end, turns - 1)
        else:
            queue.cancel_if(works.__contains__)

    end(_TURNS)


def _one_node() -> list[int] | None:
    """Workers are counted by node, and there must be but one."""
    node = topology().nodes[0].id
    return None if node is None else [node]


def end_queries(connection: Any, **_signal: object) -> None:
    """A receiver of Django's signal ``connection_created``: queries end with their works.

    The database is told to end the query that a cancelled work waits for; so the
    connection can be used again. PostgreSQL's and SQLite's drivers can do that.
    """
    if _end_query not in connection.execute_wrappers:
        connection.execute_wrappers.append(_end_query)


def _end_query(
    execute: Callable[..., Any], sql: str, params: Any, many: bool, context: dict[str, Any]
) -> Any:
    """Calls it as Django's ``connection.execute_wrapper`` does."""
    raw = context["connection"].connection
    cancel = getattr(raw, "cancel", None) or getattr(raw, "interrupt", None)
    with on_cancel(cancel) if cancel else nullcontext():
        return execute(sql, params, many, context)
