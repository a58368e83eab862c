"""The binding's types, which cffi can't declare; ``_types.pyi`` says what they have."""

from ._native import lib

_made: list[object] = []
lib.iowq_get_types(id(_made))
if isinstance(_made[-1], BaseException):
    raise _made[-1]
WorkBase, FutureBase, ExecutorBase, KeyTable, Mailbox, LoopWorkBase = _made[:6]
Operation, Inbox, ReadBuffer, LineIterator, TimeoutBase = _made[6:]
