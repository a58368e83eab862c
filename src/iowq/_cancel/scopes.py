"""``with`` blocks: a time limit for any code; for a work's, a shield from cancel and blocking."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from types import TracebackType
from typing import ParamSpec, TypeVar

from .._arguments import check_callable
from .._native import lib
from .._types import TimeoutBase
from .interruption import interruption

P = ParamSpec("P")
T = TypeVar("T")


class shield:  # noqa: N801 - reads as a keyword, like contextlib's
    """Holds cancel, and time limits, back: nothing interrupts what is inside.

    For what must not be left half-done. A cancel that came meanwhile goes on at the
    end of the block, which raises ``Cancelled`` then. May be nested; does nothing
    outside of a work.
    """

    def __init__(self) -> None:
        self._entered: list[int] = []  # the works that are inside: iowq_serial()

    def __enter__(self) -> None:
        lib.io_wq_worker_shield()
        self._entered.append(lib.iowq_serial())

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        work = lib.iowq_serial()
        if work not in self._entered:
            return  # a generator's, closed elsewhere: this shield ended with its own work
        self._entered.remove(work)
        lib.io_wq_worker_unshield()
        if error is None and lib.io_wq_worker_claim():
            raise interruption()


class interruptible:  # noqa: N801
    """The opposite of a :class:`shield`: what is inside may be interrupted, whatever is around it.

    For a work that is shielded as a whole, or uncancellable, and calls code that isn't. A cancel
    that came before goes on at the beginning of the block, which raises ``Cancelled`` then, and
    nothing reaches what follows the block. The two nest in any order; does nothing outside of
    a work.
    """

    def __init__(self) -> None:
        self._entered: list[tuple[int, int]] = []  # works that are inside, and their shields

    def __enter__(self) -> None:
        shields = lib.io_wq_worker_expose()
        if lib.io_wq_worker_claim():
            lib.io_wq_worker_cover(shields)
            raise interruption()
        self._entered.append((lib.iowq_serial(), shields))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        work = lib.iowq_serial()
        for entered in reversed(self._entered):
            if entered[0] == work:  # else a generator's, closed elsewhere: it ended with its work
                self._entered.remove(entered)
                lib.io_wq_worker_cover(entered[1])
                return


class blocking:  # noqa: N801
    """Says that what is inside waits for something: another worker takes over at once.

    Blocking that is not announced is noticed all the same, 50 us to 0.8 ms later. Does
    nothing outside of a work.
    """

    def __enter__(self) -> None:
        lib.io_wq_worker_sleeping()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        lib.io_wq_worker_running()


class timeout(TimeoutBase):  # noqa: N801 - as asyncio's
    """Ends what is inside, as cancel does, when time is up, and raises TimeoutError.

    On any thread, and in works. It may be nested. A ``with`` that ends in time leaves nothing
    behind; one that swallows the interruption, or ends by itself after its time, raises
    nothing: as does any in a :class:`shield` or in uncancellable work, which nothing interrupts.
    As a decorator it limits each call of a function.

    :param seconds: from the beginning of the ``with``.
    :param exception: what is raised instead, inside as well, where else ``Cancelled`` is: a
        class or an instance. An ``Exception`` is raised once, since code may catch it
        and go on; another one again and again, until the block is left.
    :raises RuntimeError: if it is entered twice; or, outside of a work, in an async function,
        whose thread runs others while it waits.
    """

    __slots__ = ()

    def __call__(self, function: Callable[P, T]) -> Callable[P, T]:
        """Returns the function with this limit for each of its calls.

        :raises TypeError: if its calls don't run its code: it is async, or a generator.
        """
        check_callable("function", function)
        if _runs_later(function):
            raise TypeError(f"a timeout ends no async or generator function: {function!r}")
        seconds, exception = self._seconds, self._exception

        @functools.wraps(function)
        def limited(*args: P.args, **kwargs: P.kwargs) -> T:
            with timeout(seconds, exception):
                return function(*args, **kwargs)

        return limited


def _runs_later(function: object) -> bool:
    call = getattr(function, "__call__", None)  # noqa: B004 - of an object's class
    return any(
        asks(what)
        for what in (function, call)
        for asks in (
            inspect.iscoroutinefunction,
            inspect.isasyncgenfunction,
            inspect.isgeneratorfunction,
        )
    )
