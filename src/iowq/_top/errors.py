"""Why a process can't be watched."""


class WatchError(Exception):
    """Says why, in a sentence's second half."""


class NoPageError(Exception):
    """The process has no page, or none any more: no queue of it has a worker."""
