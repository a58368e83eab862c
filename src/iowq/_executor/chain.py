"""Linked work (``IOSQE_IO_LINK``): in order, and each only if all before it succeeded."""

from __future__ import annotations

import operator
import traceback
from collections.abc import Callable, Hashable
from concurrent.futures import CancelledError
from contextlib import suppress
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, TypeVar, cast

from .._native import lib
from .._work.future import Future
from .._work.work import Skipped, safe_repr
from .views import ExecutorView

if TYPE_CHECKING:
    from .._work.work import Work
    from .executor import QueueExecutor

P = ParamSpec("P")
T = TypeVar("T")

_NUMBER = operator.itemgetter(0)


class _Link(Future[T]):
    """A future that breaks its chain if it doesn't succeed."""

    __slots__ = ("_ended", "_links")

    def __init__(
        self, chain: Chain, fn: Callable[..., T], args: Any, kwargs: Any, context: Any
    ) -> None:
        super().__init__(chain, fn, args, kwargs, context)
        self._links = chain._links
        self._ended = False
        self._fn = _Call(self, fn)

    def _drop(self) -> str:
        if _number(self) and self._links.break_before(self) is None:
            self._links.break_behind(self, None)
        self._links.end(self)
        return super()._drop()


class _Call:
    """A link's callable, which isn't called if the chain is broken by then."""

    def __init__(self, link: _Link[Any], fn: Callable[..., Any]) -> None:
        self._link = link
        self._fn = fn

    def __call__(self, /, *args: Any, **kwargs: Any) -> object:
        link, fn = self._link, self._fn
        try:
            reason = link._links.reason_against(link)
            if reason is not None:
                link._exception = reason
                raise Skipped
            try:
                return fn(*args, **kwargs)
            except BaseException as error:
                link._links.break_behind(link, None if link._is_cancelled_by(error) else error)
                raise
        finally:
            link._links.end(link)
            del self, link, fn, args, kwargs  # an exception keeps this frame

    def __repr__(self) -> str:
        return repr(self._fn)


class _Links:
    """A chain's links, by the numbers that the core gives to works as it takes them.

    There is no lock, since a worker must never wait for a thread that has lost the
    interpreter: the steps are single operations of a dict and a list.

    A link that is cancelled is off the queue before it can say so here, and the next one may
    begin in between. So that one looks whether a link before it has not ended.
    """

    def __init__(self) -> None:
        self.unfinished: dict[_Link[Any], None] = {}
        self._breaks: list[tuple[int, CancelledError]] = []

    def enqueue(self, link: _Link[Any], offer: Callable[[Work], int]) -> int:
        """Returns what offer does."""
        self.unfinished[link] = None
        error = offer(link)
        if error or link._ended:
            self.unfinished.pop(link, None)
        return error

    def end(self, link: _Link[Any]) -> None:
        """The link has run, or never will. May be repeated."""
        link._ended = True
        self.unfinished.pop(link, None)

    def reason_against(self, link: _Link[Any]) -> CancelledError | None:
        """Why the link, whose turn it is, must not run; None: it may.

        Whoever was before it has run to its end, or was taken off the queue.
        """
        dropped = self._dropped_before(link) if lib.iowq_is_cancelling() else None
        if dropped is not None:
            return _reason(safe_repr(dropped._fn), None)
        return self.break_before(link)

    def break_before(self, link: _Link[Any]) -> CancelledError | None:
        """Why a link before this one broke the chain, if one did."""
        breaks = list(self._breaks)  # as of one instant
        if not breaks:
            return None
        number, reason = min(breaks, key=_NUMBER)
        return reason if number < _number(link) else None

    def _dropped_before(self, link: _Link[Any]) -> _Link[Any] | None:
        for other in list(self.unfinished):
            if 0 < _number(other) < _number(link) and not other._ended:
                return other
        return None

    def break_behind(self, link: _Link[Any], error: BaseException | None) -> None:
        """The link has not succeeded: cancels those behind it."""
        reason = _reason(safe_repr(link._fn), error)
        number = _number(link)
        self._breaks.append((number, reason))
        for later in list(self._breaks):  # the first one counts
            if later[0] > number:
                with suppress(ValueError):
                    self._breaks.remove(later)
        for other in reversed(list(self.unfinished)):
            if not _number(other):
                continue  # it isn't enqueued yet, and finds out when it is its turn
            if _number(other) <= number:
                break
            other._exception = reason
            other.cancel()


def _number(link: _Link[Any]) -> int:
    """The core's; 0: it hasn't taken the link."""
    return link._number


def _reason(work: str, error: BaseException | None) -> CancelledError:
    who = f"{work}, before it in its chain,"
    if error is None:
        return CancelledError(f"{who} was cancelled")
    told = traceback.TracebackException(type(error), error, None)  # error's repr may fail
    told.__notes__ = None  # type: ignore[attr-defined]  # which come last
    (*_, what) = told.format_exception_only()
    reason = CancelledError(f"{who} failed: {what.rstrip()}")
    reason.__cause__ = error
    return reason


class Chain(ExecutorView):
    """An executor whose works are links: one fails or is cancelled, and the rest is.

    The futures of the rest are cancelled at once; their ``result()`` raises a
    ``CancelledError`` that tells why, with the error as its cause. What is submitted later
    fails the same way: a chain that is broken stays so.

    The links are hashed work with a key of its own, which brings the order. Each call
    of ``map`` is one.
    """

    _new_future = _Link
    _takes_chunks = False

    def __init__(self, outer: QueueExecutor, **narrower: Any) -> None:
        super().__init__(outer, **narrower)
        self._links: _Links = outer._links if isinstance(outer, Chain) else _Links()

    def _offer(self, work: Work) -> int:
        return self._links.enqueue(cast("_Link[Any]", work), super()._offer)

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Queues ``fn(*args, **kwargs)`` as the chain's next link."""
        link = self._make_future(fn, args, kwargs, copy_context())
        error = self._offer(link)
        if error:
            self._not_taken(link, error)
        return link

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
