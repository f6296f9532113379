"""HTTP ranges of bytes (RFC 9110, 14)."""

import re
from typing import NamedTuple

_ONE_RANGE = re.compile(r"bytes\s*=\s*(\d{0,19})\s*-\s*(\d{0,19})", re.IGNORECASE)


class Span(NamedTuple):
    """Bytes [start, stop)."""

    start: int
    stop: int


class UnsatisfiableError(Exception):
    """The range lies outside what there is: status 416."""


def parse_range(header: str | None, *, num_bytes: int) -> Span | None:
    """What a ``Range`` header asks of ``num_bytes`` bytes; None: all of it.

    Headers of another unit, of several ranges or of another form are as if they were not there, as the RFC allows.

    Raises:
        UnsatisfiableError: it asks for bytes behind the end, or for the last 0.
    """
    found = _ONE_RANGE.fullmatch((header or "").strip())
    if not found or not (found[1] or found[2]):
        return None
    if not found[1]:
        length = int(found[2])
        if not length or not num_bytes:
            raise UnsatisfiableError
        return Span(max(0, num_bytes - length), num_bytes)
    first, last = int(found[1]), int(found[2]) if found[2] else num_bytes - 1
    if found[2] and last < first:
        return None
    if first >= num_bytes:
        raise UnsatisfiableError
    return Span(first, min(last, num_bytes - 1) + 1)
