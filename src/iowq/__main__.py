"""``python -m iowq``: shows the pool at work on this machine; ``top PID``: in a process."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from . import __version__
from ._diagnose import demo
from ._top import command as top

if TYPE_CHECKING:
    from ._diagnose.rich_view import View
else:
    try:
        from ._diagnose.rich_view import View
    except ModuleNotFoundError:  # rich isn't installed
        from ._diagnose.plain_view import View


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
    commands = parser.add_subparsers(dest="command")
    top.add_arguments(commands.add_parser("top", help=top.DESCRIPTION, description=top.DESCRIPTION))
    return parser.parse_args(arguments)


def _run(options: argparse.Namespace, view: View) -> list[demo.Finding]:
    rounds = 3
    return [
        *demo.show_topology(),
        view.step(
            "hashed appends",
            options.files * options.lines,
            lambda advance: demo.append_to_files(options.files, options.lines, advance),
        ),
        view.step(
            "cancelled reads",
            options.cancels,
            lambda advance: demo.cancel_blocked_reads(options.cancels, advance),
        ),
        view.step(
            "tasks per second",
            2 * rounds,
            lambda advance: demo.compare_rates(options.tasks, rounds, advance),
        ),
    ]


def main(arguments: list[str] | None = None) -> int:
    """Runs the demonstration, or the command. Returns 0 if every promise held, else 1 or 2."""
    options = _parse(arguments)
    if options.command == "top":
        return top.run(options)
    with View() as view:
        findings = _run(options, view)
    view.show(f"iowq {__version__}", findings)
    return 0 if all(finding.ok for finding in findings) else 1


if __name__ == "__main__":
    sys.exit(main())
