"""What changes a file is done in the order in which its handles, however many, have begun it."""

from __future__ import annotations

import os
import threading
import weakref
from typing import TYPE_CHECKING

from .perform import Completion, begin

if TYPE_CHECKING:
    from .._types import Operation

_orders: weakref.WeakValueDictionary[tuple[int, int], Order] = weakref.WeakValueDictionary()
_new_order = threading.Lock()


class Order:
    """The order of one file: what is begun later is done later, by whatever thread."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Knows of none. In a forked child what is under way is the parent's."""
        self._lock = threading.Lock()
        self._latest: Operation[int] | None = None

    def begin(self, operation: Operation[int], key: int = 0) -> Completion | None:
        """Begins it on the running loop. Returns None, if it has been done in place.

        :param key: of a stream, whose reads and writes are ordered by the core.
        """
        with self._lock:
            if self._is_idle() and operation.attempt():
                return None
            completion = begin(operation, key or id(self))
            self._latest = operation
            return completion

    def _is_idle(self) -> bool:
        return self._latest is None or self._latest.check() is not None


def order_of(status: os.stat_result) -> Order:
    """Returns that of the file, which all of its handles share."""
    identity = (status.st_dev, status.st_ino)
    with _new_order:
        order = _orders.get(identity)
        if order is None:
            order = _orders[identity] = Order()
        return order


def _forget() -> None:
    global _new_order
    _new_order = threading.Lock()
    for order in list(_orders.values()):
        order.forget()


os.register_at_fork(after_in_child=_forget)
