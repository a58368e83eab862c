"""``python -m iowq``: shows the pool at work on this machine."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from . import __version__, _demo


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {text}")
    return number


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m iowq", description=__doc__)
    parser.add_argument("--files", type=_positive, default=16, help="files to append to")
    parser.add_argument("--lines", type=_positive, default=500, help="lines per file")
    parser.add_argument("--cancels", type=_positive, default=50, help="socket reads to cancel")
    parser.add_argument("--tasks", type=_positive, default=50_000, help="empty tasks per round")
    parser.add_argument("--version", action="version", version=f"iowq {__version__}")
    return parser.parse_args(arguments)


def _run(options: argparse.Namespace, console: Console) -> list[_demo.Finding]:
    findings = list(_demo.show_topology())
    rounds = 3
    with Progress(console=console, transient=True) as progress:

        def step(title: str, total: int, run: Callable[[_demo.Advance], _demo.Finding]) -> None:
            task = progress.add_task(title, total=total)
            findings.append(run(lambda: progress.advance(task)))

        step(
            "hashed appends",
            options.files * options.lines,
            lambda advance: _demo.append_to_files(options.files, options.lines, advance),
        )
        step(
            "cancelled reads",
            options.cancels,
            lambda advance: _demo.cancel_blocked_reads(options.cancels, advance),
        )
        step(
            "tasks per second",
            2 * rounds,
            lambda advance: _demo.compare_rates(options.tasks, rounds, advance),
        )
    return findings


def main(arguments: list[str] | None = None) -> int:
    """Runs the demonstration. Returns 0 if every promise held, else 1."""
    options = _parse(arguments)
    findings = _run(options, Console(stderr=True))
    table = Table(title=f"iowq {__version__}", show_lines=False)
    table.add_column("what")
    table.add_column("found")
    table.add_column("")
    for finding in findings:
        mark = "[green]ok[/]" if finding.ok else "[red]BROKEN[/]"
        table.add_row(finding.what, finding.found, mark)
    Console().print(table)
    return 0 if all(finding.ok for finding in findings) else 1


if __name__ == "__main__":
    sys.exit(main())
