"""The demonstration's progress bars and table, by rich."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

if TYPE_CHECKING:
    from .demo import Advance, Finding


class View(AbstractContextManager["View"]):
    """Shows the steps while they run, on stderr, and what they have found, on stdout."""

    def __init__(self) -> None:
        self._progress = Progress(console=Console(stderr=True), transient=True)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def step(self, title: str, total: int, run: Callable[[Advance], Finding]) -> Finding:
        """Runs one step, which calls its argument total times as it goes on."""
        self._progress.start()  # if it hasn't been
        task = self._progress.add_task(title, total=total)
        return run(lambda: self._progress.advance(task))

    def show(self, title: str, findings: Iterable[Finding]) -> None:
        """Prints the table."""
        table = Table("what", "found", "", title=title)
        for finding in findings:
            mark = "[green]ok[/]" if finding.ok else "[red]BROKEN[/]"
            table.add_row(finding.what, finding.found, mark)
        Console().print(table)
