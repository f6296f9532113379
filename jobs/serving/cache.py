"""Answers that are kept, bounded by their bytes."""

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

ValueT = TypeVar("ValueT")
ENTRY_BYTES = 512
"""What an entry takes beside its value, about."""


class ByteCache(Generic[ValueT]):
    """The values used last, at most ``max_bytes`` of them; for several threads at once."""

    def __init__(self, max_bytes: int):
        self._max_bytes, self._num_bytes = max_bytes, 0
        self._lock = threading.Lock()
        self._held: OrderedDict[Hashable, tuple[ValueT, int]] = OrderedDict()

    @property
    def num_bytes(self) -> int:
        return self._num_bytes

    def get(self, key: Hashable) -> ValueT | None:
        with self._lock:
            if key not in self._held:
                return None
            self._held.move_to_end(key)
            return self._held[key][0]

    def put(self, key: Hashable, value: ValueT, *, num_bytes: int) -> None:
        """Keep a value of ``num_bytes``; one that is larger than the whole cache is not kept."""
        size = num_bytes + ENTRY_BYTES
        with self._lock:
            if key in self._held:
                self._num_bytes -= self._held.pop(key)[1]
            if size > self._max_bytes:
                return
            self._held[key] = (value, size)
            self._num_bytes += size
            while self._num_bytes > self._max_bytes:
                self._num_bytes -= self._held.popitem(last=False)[1][1]
