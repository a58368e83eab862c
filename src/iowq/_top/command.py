"""The command line of ``python -m iowq top``."""

from __future__ import annotations

import argparse
import os
import sys
import time
from contextlib import suppress

from .as_json import as_json
from .errors import WatchError
from .look import looks
from .plain import as_text
from .process import Process

DESCRIPTION = "Shows what the workers of another process run, and what is pending."


def _interval(text: str) -> float:
    seconds = float(text)
    if not 0.05 <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"must be from 0.05 to 3600 seconds, not {text}")
    return seconds


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what the command understands."""
    parser.add_argument("pid", type=int, metavar="PID", help="the process's number")
    parser.add_argument("--interval", type=_interval, default=1.0, help="seconds between looks")
    parser.add_argument("--once", action="store_true", help="one look, as text; no rates")
    parser.add_argument("--json", action="store_true", help="a line of JSON for each look")


def _show_live(process: Process, interval: float) -> int:
    try:
        from .live import show
    except ModuleNotFoundError:
        print(
            "the live view needs rich: pip install 'iowq[demo]'; --once and --json do without",
            file=sys.stderr,
        )
        return 2
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        print("the live view needs a terminal; --once and --json do without", file=sys.stderr)
        return 2
    show(process, interval)
    return 0


def _print_looks(process: Process, options: argparse.Namespace) -> int:
    write = as_json if options.json else as_text
    for look in looks(process):
        if look.note and options.once:
            raise WatchError(look.note)
        print(write(process, look), flush=True)
        if options.once:
            break
        time.sleep(options.interval)
    return 0


def run(options: argparse.Namespace) -> int:
    """Returns the exit status.

    0; 1: the process can't be watched, or has ended; 2: there is no terminal, or no rich.
    """
    try:
        process = Process(options.pid)
        if options.once or options.json:
            with suppress(KeyboardInterrupt):
                return _print_looks(process, options)
            return 0
        return _show_live(process, options.interval)
    except BrokenPipeError:  # who has read it has seen enough; nor can the rest be flushed
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except WatchError as reason:
        print(f"process {options.pid} cannot be watched: {reason}", file=sys.stderr)
        return 1
