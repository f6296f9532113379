"""The bytes of an object from front to back, read whole or with the unwanted parts left out."""

from collections.abc import Callable, Iterator
from typing import Protocol

_FIRST_BYTES, _MOST_BYTES = 32 << 10, 8 << 20


class ByteSource(Protocol):
    """A place in an object that only moves forward. What is returned is shorter at the end of the object only."""

    position: int

    def some(self, limit: int) -> bytes:
        """1 to ``limit`` bytes; b"" at the end."""
        ...

    def skip(self, count: int) -> int:
        """Move on by ``count`` bytes -> how many there were."""
        ...


class StreamSource:
    """Reads every byte, from chunks of any size."""

    def __init__(self, chunks: Iterator[bytes]):
        self._chunks = chunks
        self._view = memoryview(b"")
        self.position = 0

    def some(self, limit: int) -> bytes:
        return bytes(self._piece(limit))

    def skip(self, count: int) -> int:
        left = count
        while left and (piece := self._piece(left)):
            left -= len(piece)
        return count - left

    def _piece(self, limit: int) -> memoryview:
        while not self._view and (chunk := next(self._chunks, None)) is not None:
            self._view = memoryview(chunk)
        piece, self._view = self._view[:limit], self._view[limit:]
        self.position += len(piece)
        return piece


class RangeSource:
    """Jumps over what is skipped; ``read(start, length)`` gives ranges of an object of ``num_bytes``.

    A range is small after a jump, for what lies between two large payloads is, and grows while nothing is skipped.
    """

    def __init__(self, read: Callable[[int, int], bytes], *, num_bytes: int):
        self._read, self._num_bytes = read, num_bytes
        self._view = memoryview(b"")
        self._range_bytes = _FIRST_BYTES
        self.position = 0

    def some(self, limit: int) -> bytes:
        if not self._view and self.position < self._num_bytes:
            length = min(self._range_bytes, self._num_bytes - self.position)
            self._view = memoryview(self._read(self.position, length))
            self._range_bytes = min(2 * self._range_bytes, _MOST_BYTES)
        piece, self._view = self._view[:limit], self._view[limit:]
        self.position += len(piece)
        return bytes(piece)

    def skip(self, count: int) -> int:
        count = min(count, self._num_bytes - self.position)
        if count > len(self._view):
            self._range_bytes = _FIRST_BYTES
        self._view = self._view[count:]
        self.position += count
        return count


def read_upto(source: ByteSource, count: int) -> bytes:
    """The next ``count`` bytes, fewer at the end of the object."""
    parts = []
    while count and (piece := source.some(count)):
        parts.append(piece)
        count -= len(piece)
    return b"".join(parts)
