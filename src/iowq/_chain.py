"""Linked work (``IOSQE_IO_LINK``): in order, and each only if all before it succeeded."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, TypeVar, cast

from ._entrance import View
from ._work import FINISHED, Skipped

if TYPE_CHECKING:
    from ._entrance import Entrance
    from ._future import Future
    from ._work import Work

P = ParamSpec("P")
T = TypeVar("T")


class Chain(View):
    """An executor whose works are links: one fails or is cancelled, and the rest is.

    The futures of the rest are cancelled at once; their ``result()`` raises a
    ``CancelledError`` that tells which work it was, with the error as its cause. What is
    submitted later fails the same way: a chain that is broken stays so.

    The links are hashed work with a key of its own, which brings the order.
    """

    def __init__(self, outer: Entrance, **narrower: Any) -> None:
        super().__init__(outer, **narrower)
        self._links: _Links = outer._links if isinstance(outer, Chain) else _Links()

    def _offer(self, work: Work, key: Any) -> int:
        offer = super()._offer
        return self._links.append(cast("Future[Any]", work), lambda: offer(work, key))

    def enqueue(self, _fn: Any, /, *_args: Any, **_kwargs: Any) -> NoReturn:
        """Raises TypeError: a chain needs its works' outcomes, so ``submit`` them."""
        raise TypeError("a chain needs its works' outcomes: use submit()")

    def enqueue_hashed(self, _key: Any, _fn: Any, /, *_args: Any, **_kwargs: Any) -> NoReturn:
        """Raises TypeError, as :meth:`enqueue`."""
        self.enqueue(_fn)

    def hashed(self, key: Hashable) -> NoReturn:
        """Raises TypeError: a chain has a key of its own."""
        raise TypeError(f"a chain has a key of its own, it can't have {key!r}")

    def _narrow(self, **narrower: Any) -> Chain:
        return Chain(self, **narrower)


class _Link:
    """A link's callable, which does nothing if the link before it has not succeeded."""

    def __init__(self, before: Future[Any] | None, link: Future[Any]) -> None:
        self._before = before
        self._link = link
        self._fn: Any = link._fn

    def __call__(self, /, *args: Any, **kwargs: Any) -> object:
        if self._before is not None and not _succeeded(self._before):
            self._link._exception = _reason(self._before)
            raise Skipped
        return self._fn(*args, **kwargs)

    def __repr__(self) -> str:
        return repr(self._fn)


class _Links:
    """Those of a chain's links that have not ended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: Future[Any] | None = None
        self._unfinished: deque[Future[Any]] = deque()

    def append(self, link: Future[Any], enqueue: Callable[[], int]) -> int:
        """Enqueues a link behind the last one. Returns what enqueue does: 0 or an error."""
        with self._lock:
            fn, before = link._fn, self._last
            link._fn = _Link(before, link)
            self._unfinished.append(link)
            self._last = link
            error = enqueue()
            if error:
                self._last = before
                self._unfinished.remove(link)
                link._fn = fn
        if not error:
            link.add_done_callback(lambda _: self._ended(link))
        return error

    def _ended(self, link: Future[Any]) -> None:
        """Called for each link; cancels those behind it if it has not succeeded."""
        with self._lock:
            if link not in self._unfinished:
                return  # it is one of those behind another
            later = []
            while self._unfinished[-1] is not link and not _succeeded(link):
                later.append(self._unfinished.pop())
            self._unfinished.remove(link)
        for other in reversed(later):
            other._exception = _reason(link)
            other.cancel()


def _succeeded(link: Future[Any]) -> bool:
    return link._state == FINISHED and link._exception is None


def _reason(link: Future[Any]) -> CancelledError:
    """Why the links after this one are cancelled."""
    error: BaseException | None = getattr(link, "_exception", None)
    if isinstance(error, CancelledError) and link._state != FINISHED:
        return error  # the reason why this one was
    if error is None:
        return CancelledError("a work before it in its chain was cancelled")
    reason = CancelledError(f"a work before it in its chain failed: {error!r}")
    reason.__cause__ = error
    return reason
