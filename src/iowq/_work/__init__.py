"""One work, and the future that is one."""
