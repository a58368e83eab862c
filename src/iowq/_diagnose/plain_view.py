"""The demonstration's table where rich isn't installed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .demo import Advance, Finding


class View(AbstractContextManager["View"]):
    """Prints what the steps have found, on stdout."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        pass

    def step(self, _title: str, _total: int, run: Callable[[Advance], Finding]) -> Finding:
        """Runs one step."""
        return run(lambda: None)

    def show(self, title: str, findings: Sequence[Finding]) -> None:
        """Prints the table, and how to get a nicer one."""
        width = max(len(finding.what) for finding in findings)
        print(title)
        for finding in findings:
            mark = "ok    " if finding.ok else "BROKEN"
            print(f"  {mark}  {finding.what:{width}}  {finding.found}")
        print("With progress bars and a nicer table: pip install 'iowq[demo]'")
