"""What the workers do: for people who want to know why their program hangs."""

from __future__ import annotations

import sys
import traceback
from typing import TextIO

from .._executor.registry import queues
from .._work.work import Work, safe_repr


def dump(file: TextIO | None = None) -> None:
    """Prints what each worker of each queue does, with its Python stack.

    :param file: default: ``sys.stderr``.
    """
    file = sys.stderr if file is None else file
    for queue in queues():
        print(safe_repr(queue), file=file)
        for worker in queue.workers():
            print(f"  {worker}", file=file)
            if worker.work is not None:
                _print_stack(worker.work, file)


def _print_stack(work: Work, file: TextIO) -> None:
    frames = [
        traceback.FrameSummary(code.co_filename, line, code.co_name)
        for code, line in reversed(work._stack())
    ]
    for text in traceback.format_list(frames):
        print("    " + text.rstrip().replace("\n", "\n    "), file=file)
