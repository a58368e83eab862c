"""The words that clients, the scheduler and workers say to one another."""

from __future__ import annotations

from typing import Final

#: The annotation of a task that has a key.
KEY: Final = "iowq_key"
#: What the scheduler makes of it, for the worker.
KEYED: Final = "iowq_keyed"
#: In a task's metadata: its pickled result.
RESULT: Final = "iowq_result"
