"""A look as plain text, for ``--once``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from .tables import Table, tables

if TYPE_CHECKING:
    from .look import Look
    from .process import Process


def _lines(table: Table) -> Iterator[str]:
    rows = [table.heads, *table.rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(table.heads))]
    yield f"{table.title}:"
    for row in rows:
        cells = [
            text.rjust(width) if 0 < column <= table.numbers else text.ljust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield ("  " + "  ".join(cells)).rstrip()


def as_text(process: Process, look: Look) -> str:
    """Returns it, with all rows."""
    parts = [f"process {process.pid}: {process.command()}"]
    parts += [look.note] if look.note else []
    parts += ["\n".join(_lines(table)) for table in tables(look)]
    return "\n\n".join(parts)
