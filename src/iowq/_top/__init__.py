"""``python -m iowq top PID``: what another process's queues do."""
