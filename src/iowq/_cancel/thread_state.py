"""What a work may leave on its thread, which the next one must not see.

- the exception that it handles, and asynchronous exceptions that came too late: always
  dropped (``baseline.c``, ``work.run``);
- context variables: each work has a context of its own;
- trace and profile functions, asyncio's running loop, hooks for asynchronous generators,
  the tracking of coroutines' origins, the signal mask: put back, if the work has changed
  them, to what they were when the thread's first work began, after the ``initializer``.

What stays is what people keep on a thread on purpose: ``threading.local``, the thread's
name, its priority and CPUs. So does ``errno``, and ctypes' copy of it, which mean
something right after a call that has failed only.
"""

from __future__ import annotations

import signal
import sys
import threading
from typing import Any


class Baseline:
    """What a worker's thread is like between works; to be made and used on that thread."""

    def __init__(self) -> None:
        self._tracer: Any = sys.gettrace()
        self._profiler: Any = sys.getprofile()
        self._asyncgen_hooks = sys.get_asyncgen_hooks()
        self._origins = sys.get_coroutine_origin_tracking_depth()
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())

    def restore(self) -> None:
        """Puts back what the last work has changed."""
        self._restore_tracers()
        running = sys.modules.get("asyncio.events")
        if running is not None:
            running._set_running_loop(None)
        sys.set_asyncgen_hooks(*self._asyncgen_hooks)
        sys.set_coroutine_origin_tracking_depth(self._origins)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)

    def _restore_tracers(self) -> None:
        """A tracer for all threads is not the work's; it replaces itself as it likes."""
        if threading.gettrace() is None:
            sys.settrace(self._tracer)
        else:
            self._tracer = sys.gettrace()
        if threading.getprofile() is None:
            sys.setprofile(self._profiler)
        else:
            self._profiler = sys.getprofile()
