"""Another process, as ``/proc`` shows it."""

from __future__ import annotations

import pwd
from pathlib import Path

from .errors import NoPageError, WatchError
from .page import NAME, Page

_STATES = {"T": "stopped", "t": "stopped by a tracer", "D": "in a wait of the kernel's"}


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


class Process:
    """A process that uses iowq.

    :param pid: its number, or that of a thread of it.
    :raises WatchError: there is none, it is another user's, or doesn't use iowq.
    """

    def __init__(self, pid: int) -> None:
        self._folder = Path("/proc", str(pid))
        self.pid = int(self._status()["Tgid"])
        self._folder = Path("/proc", str(self.pid))
        status = self._status()
        #: in the innermost namespace: as it knows itself
        self._own_pid = int(status.get("NSpid", status["Tgid"]).split()[-1])
        self._begun = self._stat()[19]
        self._page: Page | None = None
        self._check_use()

    def _status(self) -> dict[str, str]:
        try:
            lines = (self._folder / "status").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            raise WatchError("there is no such process") from None
        fields = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
        if fields["State"][0] in "ZX":
            raise WatchError("it has ended")
        return fields

    def _stat(self) -> list[str]:
        try:
            return (self._folder / "stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            raise WatchError("it has ended") from None

    def check_alive(self) -> None:
        """Raises :exc:`WatchError` if it has ended, also if another has its number now."""
        stat = self._stat()
        if stat[0] in "ZX" or stat[19] != self._begun:
            raise WatchError("it has ended")

    def state(self) -> str | None:
        """Why it doesn't answer, if the kernel knows."""
        return _STATES.get(self._stat()[0])

    def command(self) -> str:
        """Its command line, in one line."""
        try:
            words = (self._folder / "cmdline").read_bytes().rstrip(b"\0").split(b"\0")
        except OSError:
            return ""
        line = " ".join(word.decode("utf-8", "replace") for word in words)
        return " ".join("".join(c if c.isprintable() else " " for c in line).split())

    def _refused(self) -> WatchError:
        owner = self._folder.stat().st_uid
        return WatchError(
            f"it is {_name_of(owner)}'s, and may be looked into by that user, or root, alone"
        )

    def _check_use(self) -> None:
        try:
            maps = (self._folder / "maps").read_bytes()
        except PermissionError:
            raise self._refused() from None
        except (FileNotFoundError, ProcessLookupError):
            raise WatchError("it has ended") from None
        if b"/iowq/_native." not in maps and b"/memfd:" + NAME.encode() not in maps:
            raise WatchError("it does not use iowq")

    def _open_page(self, entry: Path) -> Page | None:
        try:
            is_page = str(entry.readlink()).startswith(f"/memfd:{NAME} ")
            return Page(entry, self._own_pid) if is_page else None
        except (FileNotFoundError, NoPageError):
            return None  # closed meanwhile; or its parent's

    def _find_page(self) -> Page:
        try:
            pages = map(self._open_page, (self._folder / "fd").iterdir())
            found = next((page for page in pages if page), None)
        except PermissionError:
            raise self._refused() from None
        except (FileNotFoundError, ProcessLookupError):
            raise WatchError("it has ended") from None
        if found is None:
            raise NoPageError
        return found

    def page(self) -> Page:
        """Returns the page that it has now.

        :raises NoPageError: it has none, since no queue of it has a worker.
        """
        if self._page is None:
            self._page = self._find_page()
        return self._page

    def forget_page(self) -> None:
        """Looks for another one, next time."""
        if self._page is not None:
            self._page.close()
        self._page = None
