"""Two hosts, of which one fails."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SUPPORT = str(Path(__file__).resolve().parents[1] / "support")


def test_two_hosts() -> None:
    """Cancel reaches both, keys keep their order, and what a lost scheduler wanted ends."""
    program = str(Path(__file__).with_name("two_hosts.py"))
    command = ["unshare", "--net", sys.executable, program]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([SUPPORT, *sys.path])}
    result = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=200, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
