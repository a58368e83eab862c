"""Exact keys: which of a queue's keys have unfinished work.

The C core compares values, not objects: equal keys must be given to it as one
value, and different keys as different ones. That value is the address of the
key's :class:`KeyUse`, which lives while the key has unfinished work.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable


class KeyUse:
    """One key that has unfinished work, and how much."""

    __slots__ = ("hash", "key", "works")

    def __init__(self, key: Hashable, key_hash: int) -> None:
        self.key = key
        self.hash = key_hash
        self.works = 0


class KeyTable:
    """The keys in use, by their hash; keys whose hashes collide share a tuple.

    A dict of the keys themselves would call their ``__eq__`` and ``__hash__``,
    which may raise, block or enqueue more work, while it is being changed, and
    again when a key is removed on a worker. Here they are called by the thread
    that enqueues only, with no lock held and nothing changed yet.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._uses: dict[int, tuple[KeyUse, ...]] = {}

    def acquire(self, key: Hashable) -> KeyUse:
        """Counts one more work of this key. Raises what the key's methods raise."""
        key_hash = hash(key)
        while True:
            same_hash = self._uses.get(key_hash, ())
            found = None
            for use in same_hash:
                if use.key is key or use.key == key:
                    found = use
                    break
            with self._lock:
                if self._uses.get(key_hash, ()) is not same_hash:
                    continue  # changed while the keys were compared: look again
                if found is None:
                    found = KeyUse(key, key_hash)
                    self._uses[key_hash] = (*same_hash, found)
                found.works += 1
                return found

    def release(self, use: KeyUse) -> None:
        """One work of this key has finished; the last one forgets the key."""
        with self._lock:
            use.works -= 1
            if use.works:
                return
            others = tuple(other for other in self._uses[use.hash] if other is not use)
            if others:
                self._uses[use.hash] = others
            else:
                del self._uses[use.hash]

    def __len__(self) -> int:
        """How many keys have unfinished work."""
        return sum(map(len, self._uses.values()))
