"""Exact keys: which of a queue's keys have unfinished work.

The C core compares values, not objects: equal keys must be given to it as one
value, and different keys as different ones. That value is the address of the
key's :class:`KeyUse`, which is in use while the key has unfinished work, and lives
as long as the core may have its address: as long as its works.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any, TypeAlias

from .._native import lib

if TYPE_CHECKING:
    from _cffi_backend import _CDataBase


class KeyUse:
    """One key that has unfinished work."""

    __slots__ = ("hash", "key")

    def __init__(self, key: Hashable, key_hash: int) -> None:
        self.key = key
        self.hash = key_hash


#: The keys of one hash, each with its number of unfinished works. Never changed,
#: only replaced.
_Uses: TypeAlias = "tuple[tuple[KeyUse, int], ...]"


class KeyTable:
    """The keys in use, by their hash.

    A dict of the keys themselves would call their ``__eq__`` and ``__hash__``,
    which may raise, block or enqueue more work, while it is being changed, and
    again when a key is removed on a worker. Here they are called by the thread
    that enqueues only, and nothing is changed before they have answered.

    There is no lock: a thread that lost the interpreter while it held one would
    stop every worker. A change is made by replacing the tuple of a hash if it
    is still the one that was read; else it is tried anew.
    """

    def __init__(self) -> None:
        self._uses: dict[int, _Uses] = {}
        self._address = id(self._uses)

    def acquire(self, key: Hashable, work: _CDataBase) -> KeyUse:
        """Counts one more work of this key. Raises what the key's methods raise.

        :param work: its ``struct iowq_work``, which notes that it is counted.
        """
        key_hash = hash(key)
        while True:
            uses = self._uses.get(key_hash)
            for index, (use, works) in enumerate(uses or ()):
                if use.key is key or use.key == key:
                    changed = _with(uses, index, ((use, works + 1),))
                    break
            else:
                use = KeyUse(key, key_hash)
                changed = (*(uses or ()), (use, 1))
            if self._replace(key_hash, uses, changed, work, held=True):
                return use

    def find(self, key: Hashable) -> KeyUse | None:
        """Returns the use of a key that has unfinished work."""
        for use, _works in self._uses.get(hash(key), ()):
            if use.key is key or use.key == key:
                return use
        return None

    def release(self, use: KeyUse, work: Any) -> None:
        """One work of this key has finished; the last one forgets the key.

        May be repeated: work notes whether it is still counted.
        """
        while work.key_held:
            uses = self._uses.get(use.hash, ())
            for index, (other, works) in enumerate(uses):
                if other is use:
                    fewer = ((use, works - 1),) if works > 1 else ()
                    changed = _with(uses, index, fewer)
                    break
            else:
                return  # counted before a fork, in the parent
            if self._replace(use.hash, uses, changed, work, held=False):
                if works == 1:
                    use.key = None  # the use itself may live as long as its works
                return

    def _replace(
        self, key_hash: int, uses: _Uses | None, changed: _Uses, work: _CDataBase, *, held: bool
    ) -> bool:
        swapped = lib.iowq_dict_swap(
            self._address,
            id(key_hash),
            id(uses) if uses else 0,
            id(changed) if changed else 0,
            work,
            held,
        )
        if swapped < 0:
            raise MemoryError
        return swapped == 1

    def __len__(self) -> int:
        """How many keys have unfinished work."""
        return sum(map(len, self._uses.values()))


def _with(uses: _Uses | None, index: int, entry: _Uses) -> _Uses:
    """Returns uses with entry, which is one or none, instead of that at index."""
    if uses is None or len(uses) == 1:
        return entry
    return uses[:index] + entry + uses[index + 1 :]
