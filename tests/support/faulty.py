"""A file system that fails and waits, in a process of its own: ``python faulty.py FOLDER``.

It has three files. ``good`` is as any other. All that is done to ``bad`` fails with EIO. ``slow``
is waited for: each read, write and sync says a line, ``waiting``, and goes on when a line of
input allows that. After the line ``looks wait``, which is answered, requests for its status are
waited for, too.
"""

from __future__ import annotations

import errno
import os
import sys
import threading

import mfusepy as fuse  # type: ignore[import-untyped]

FOLDER, FILE = 0o040755, 0o100644


def say(line: bytes) -> None:
    """In one call: lines of several threads must not run into each other, as print's may."""
    os.write(1, line + b"\n")


class Faulty(fuse.Operations):  # type: ignore[misc]
    """What the kernel asks, in a thread for each request."""

    use_ns = True

    def __init__(self) -> None:
        self._data = {name: bytearray(b"0123456789" * 10_000) for name in ("good", "bad", "slow")}
        self._allowed = threading.Semaphore(0)
        self.looks_wait = False

    def serve_input(self) -> None:
        """Allows one request for each line."""
        for line in sys.stdin:
            if line == "looks wait\n":
                self.looks_wait = True
                say(b"looks wait")
            else:
                self._allowed.release()

    def _begin(self, path: str) -> bytearray:
        name = path[1:]
        if name == "bad":
            raise fuse.FuseOSError(errno.EIO)
        if name == "slow":
            say(b"waiting")
            self._allowed.acquire()
        return self._data[name]

    def getattr(self, path: str, fh: int | None = None) -> dict[str, int]:  # noqa: ARG002
        if path == "/":
            return {"st_mode": FOLDER, "st_nlink": 2}
        if path[1:] not in self._data:
            raise fuse.FuseOSError(errno.ENOENT)
        if self.looks_wait:
            self._begin(path)
        return {"st_mode": FILE, "st_nlink": 1, "st_size": len(self._data[path[1:]])}

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:  # noqa: ARG002
        return bytes(self._begin(path)[offset : offset + size])

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:  # noqa: ARG002
        self._begin(path)[offset : offset + len(data)] = data
        return len(data)

    def truncate(self, path: str, length: int, fh: int | None = None) -> int:  # noqa: ARG002
        del self._begin(path)[length:]
        return 0

    def fsync(self, path: str, datasync: int, fh: int) -> int:  # noqa: ARG002
        self._begin(path)
        return 0


if __name__ == "__main__":
    faulty = Faulty()
    threading.Thread(target=faulty.serve_input, daemon=True).start()
    nothing_is_kept = {"attr_timeout": 0, "entry_timeout": 0, "direct_io": True}
    fuse.FUSE(faulty, sys.argv[1], foreground=True, **nothing_is_kept)
