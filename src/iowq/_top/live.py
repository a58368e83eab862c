"""The live view, by rich."""

from __future__ import annotations

import os
import select
import sys
import termios
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table as RichTable
from rich.text import Text

from .look import Look, looks
from .tables import Table, tables

if TYPE_CHECKING:
    from .process import Process

_REDRAW_SECONDS = 0.2  # after another size of the terminal
_NARROW = 14  # characters of what isn't the most telling


def _width(table: Table, column: int, rows: int) -> int:
    cells = [table.heads[column], *(row[column] for row in table.rows[:rows])]
    return min(max(map(cell_len, cells)), _NARROW)


def _draw(table: Table, rows: int) -> RichTable:
    more = len(table.rows) - rows
    title = table.title + (f" (and {more:,} more)" if more > 0 else "")
    drawn = RichTable(box=None, expand=True, padding=(0, 1, 0, 0))
    drawn.title = Text(title, style="bold", no_wrap=True, overflow="ellipsis")
    drawn.title_justify = "left"
    for column, head in enumerate(table.heads):
        drawn.add_column(
            head,
            justify="right" if 0 < column <= table.numbers else "left",
            no_wrap=True,
            overflow="ellipsis",
            header_style="dim",
            ratio=1 if column in table.wide else None,
            width=None if column in table.wide else _width(table, column, rows),
        )
    for row in table.rows[:rows]:
        drawn.add_row(*(Text(cell, no_wrap=True, overflow="ellipsis") for cell in row))
    return drawn


def _share(wanted: list[int], lines: int) -> list[int]:
    """How many rows each table gets: in turn one each, while there are lines."""
    given = [0] * len(wanted)
    while lines > 0 and given != wanted:
        for index in range(len(wanted)):
            if given[index] < wanted[index] and lines > 0:
                given[index] += 1
                lines -= 1
    return given


def draw(process: Process, look: Look, height: int) -> RenderableType:
    """Returns what fits into a terminal of that many lines."""
    clock = time.strftime("%H:%M:%S")
    parts: list[RenderableType] = [
        Text(
            f"iowq top  {clock}  process {process.pid}: {process.command()}",
            no_wrap=True,
            overflow="ellipsis",
        )
    ]
    if look.note:
        parts.append(Text(look.note, style="yellow", no_wrap=True, overflow="ellipsis"))
    shown = tables(look)
    lines = height - 1 - len(parts) - 3 * len(shown)  # a blank line, a title and heads of each
    for table, rows in zip(shown, _share([len(t.rows) for t in shown], lines), strict=True):
        parts += [Text(""), _draw(table, rows)]
    parts.append(Text("q: quit", style="dim"))
    return Group(*parts)


@contextmanager
def _single_keys() -> Iterator[None]:
    """Keys come one by one, without an echo."""
    before = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _quits(seconds: float) -> bool:
    """Waits; returns whether q was pressed meanwhile, or there is no terminal any more."""
    ready, _, _ = select.select([sys.stdin], [], [], max(0.0, seconds))
    return bool(ready) and os.read(sys.stdin.fileno(), 1) in (b"q", b"Q", b"")


def show(process: Process, interval: float) -> None:
    """Shows it until q is pressed, or Ctrl-C.

    :raises WatchError: the process has ended.
    """
    console = Console()
    with (
        suppress(KeyboardInterrupt),
        _single_keys(),
        Live(console=console, screen=True, auto_refresh=False) as live,
    ):
        for look in looks(process):
            end = time.monotonic() + interval
            size = None
            while (left := end - time.monotonic()) > 0:
                if size != console.size:
                    size = console.size
                    live.update(draw(process, look, size.height), refresh=True)
                if _quits(min(left, _REDRAW_SECONDS)):
                    return
