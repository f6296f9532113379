"""A stored object as a file of which only the wanted ranges are read."""

import io
import os

from pipelines import storage


class RangeFile(io.RawIOBase):
    """Read-only and seekable; every read is one range of the object.

    Raises:
        FileNotFoundError: no such object.
    """

    def __init__(self, url: str) -> None:
        self._url, self._size, self._at = url, storage.size(url), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._size - self._at)
        data = storage.read_bytes(self._url, start=self._at, length=left if size < 0 else min(size, left))
        self._at += len(data)
        return data

    def readall(self) -> bytes:
        return self.read()
