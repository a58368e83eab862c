"""Places in a text, as numbers: those of :meth:`io.TextIOWrapper.tell`, which takes them, too.

A place is where in the file a decoder is to start, and with what state; how many bytes it is to be
fed then, and how many of the characters that it makes of them are to be skipped. For most encodings
the first is enough.
"""

from __future__ import annotations

import codecs
import io
from typing import NamedTuple

Decoder = codecs.IncrementalDecoder | io.IncrementalNewlineDecoder

_BITS = (64, 32, 32, 32, 8)  # of the parts, the first one's the lowest, as in io


class Cookie(NamedTuple):
    """A place, in parts."""

    position: int
    flags: int = 0  # the decoder's state
    fed: int = 0
    skipped: int = 0
    is_end: bool = False  # the decoder is told that nothing comes behind


def pack(cookie: Cookie) -> int:
    """Returns it as a number."""
    number = shift = 0
    for part, bits in zip(cookie, _BITS, strict=True):
        number |= part << shift
        shift += bits
    return number


def unpack(number: int) -> Cookie:
    """Returns what was packed."""
    parts = []
    for bits in _BITS:
        parts.append(number & (1 << bits) - 1)
        number >>= bits
    position, flags, fed, skipped, is_end = parts
    return Cookie(position, flags, fed, skipped, bool(is_end))


def find(decoder: Decoder, start: Cookie, fed: bytes, used: int) -> int:
    """Returns the place behind so many characters.

    :param decoder: is left as it is.
    :param start: where it started.
    :param fed: what it was given there.
    """
    if not used:
        return pack(start)
    state = decoder.getstate()
    try:
        start, used, rest = _start_nearby(decoder, start, fed, used)
        return pack(_walk(decoder, start, rest, used) if used else start)
    finally:
        decoder.setstate(state)


def _start_nearby(
    decoder: Decoder, start: Cookie, fed: bytes, used: int
) -> tuple[Cookie, int, bytes]:
    """Guesses where to start, not behind the place, and looks whether the decoder can.

    Returns that, how many characters are left from there, and what is fed there.
    """
    total = _count(decoder, start.flags, fed)
    guess, step = len(fed) * used // max(total, 1), 1
    while guess > 0:
        count = _count(decoder, start.flags, fed[:guess])
        held, flags = decoder.getstate()
        if count <= used and not held:
            return Cookie(start.position + guess, flags), used - count, fed[guess:]
        if count <= used:
            guess -= len(held)
            step = 1
        else:
            guess -= step
            step *= 2
    decoder.setstate((b"", start.flags))
    return start, used, fed


def _count(decoder: Decoder, flags: int, data: bytes) -> int:
    decoder.setstate((b"", flags))
    return len(decoder.decode(data))


def _walk(decoder: Decoder, start: Cookie, fed: bytes, used: int) -> Cookie:
    """Feeds the decoder byte by byte, and starts anew wherever it holds none of them back."""
    since = count = 0  # bytes and characters since the start
    for index in range(len(fed)):
        count += len(decoder.decode(fed[index : index + 1]))
        since += 1
        held, flags = decoder.getstate()
        if not held and count <= used:
            start = Cookie(start.position + since, flags)
            used -= count
            since = count = 0
        if count >= used:
            return start._replace(fed=since, skipped=used) if used else start
    count += len(decoder.decode(b"", True))
    if count < used:
        raise OSError("can't reconstruct logical file position")
    return start._replace(fed=since, is_end=True, skipped=used)
