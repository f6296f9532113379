"""Cut a manifest into parts: which rows stand in each, and how it is named.

A part is a run of consecutive manifest rows. Its name is a digest of the model and of the rows' uids, so that the same
work done twice, by a rerun or by a late writer, lands on the same file with the same content.
"""

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines import storage
from pipelines.manifest import Manifest

_NAME_LETTERS = 32


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """Manifest rows [start, stop) and the file name, without ending, that they share in parts/ and quarantine/."""

    name: str
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def url(self, corpus_url: str) -> str:
        return storage.join(corpus_url, "parts", f"{self.name}.parquet")

    def quarantine_url(self, corpus_url: str) -> str:
        return storage.join(corpus_url, "quarantine", f"{self.name}.parquet")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Parts(Sequence[Part]):
    """All or some parts of a plan in manifest order, 40 bytes each: a ``Part`` is made when it is asked for.

    ``names``: letters as bytes [parts]. ``starts``: first manifest rows, int64 [parts]. Only the last part of the
    manifest's ``num_rows`` rows may have fewer than ``part_rows``.
    """

    names: np.ndarray
    starts: np.ndarray
    part_rows: int
    num_rows: int

    def __len__(self) -> int:
        return len(self.starts)

    @overload
    def __getitem__(self, index: int) -> Part: ...
    @overload
    def __getitem__(self, index: slice) -> "Parts": ...
    def __getitem__(self, index: int | slice) -> "Part | Parts":
        if isinstance(index, slice):
            return self.where(index)
        start = int(self.starts[index])
        return Part(name=self.names[index].decode(), start=start, stop=min(start + self.part_rows, self.num_rows))

    def where(self, chosen: slice | np.ndarray) -> "Parts":
        """Those of a slice, or of a mask: bool [parts]."""
        return dataclasses.replace(self, names=self.names[chosen], starts=self.starts[chosen])

    @property
    def num_samples(self) -> int:
        """Manifest rows in these parts."""
        return len(self) * self.part_rows - self._lacking

    @property
    def _lacking(self) -> int:
        return max(0, int(self.starts[-1]) + self.part_rows - self.num_rows) if len(self) else 0

    def rows(self, positions: np.ndarray) -> np.ndarray:
        """Manifest rows, int64, of positions among the samples of these parts, one part after the other."""
        return self.starts[positions // self.part_rows] + positions % self.part_rows

    def at(self, row: int) -> Part | None:
        """The part that begins at a manifest row."""
        place = int(np.searchsorted(self.starts, row))
        return self[place] if place < len(self) and self.starts[place] == row else None


def part_name(model_id: str, uids: Sequence[str]) -> str:
    """32 hex digits that name the vectors of these samples under this model."""
    digest = hashlib.sha256()
    for value in (model_id, *uids):
        # The length keeps ("ab", "c") and ("a", "bc") apart.
        digest.update(f"{len(value)}:{value}\n".encode())
    return digest.hexdigest()[:_NAME_LETTERS]


def plan_parts(manifest: Manifest, model_id: str, *, part_rows: int = 256) -> Parts:
    """Cut the manifest into parts of ``part_rows`` rows, the last one shorter, in manifest order.

    The names are those of ``part_name``. The uids are read one row group after the other.
    """
    starts = np.arange(0, manifest.num_rows, part_rows, dtype=np.int64)
    names = np.empty(len(starts), dtype=f"S{_NAME_LETTERS}")
    empty = hashlib.sha256(f"{len(model_id)}:{model_id}\n".encode())
    digest, room, number = empty.copy(), part_rows, 0
    for rows in manifest.batches(["uid"]):
        text, end = _framed(rows["uid"].combine_chunks())
        start = 0
        while start < rows.num_rows:
            stop = min(start + room, rows.num_rows)
            digest.update(text[end[start] : end[stop]])
            room, start = room - (stop - start), stop
            if not room:
                names[number] = digest.hexdigest()[:_NAME_LETTERS].encode()
                digest, room, number = empty.copy(), part_rows, number + 1
    if room < part_rows:
        names[number] = digest.hexdigest()[:_NAME_LETTERS].encode()
    return Parts(names=names, starts=starts, part_rows=part_rows, num_rows=manifest.num_rows)


def _framed(uids: Any) -> tuple[memoryview, np.ndarray]:
    """What a name takes of the uids as one text, and where each begins: int32 [uids + 1]."""
    length = pc.call_function("utf8_length", [uids]).cast(pa.string())
    pieces = [length, pa.scalar(":"), uids, pa.scalar("\n"), pa.scalar("")]
    joined = pc.call_function("binary_join_element_wise", pieces)
    assert not joined.null_count, "a sample without uid"
    _, ends, text = joined.buffers()
    end = np.frombuffer(ends, np.int32)[joined.offset : joined.offset + len(joined) + 1]
    return memoryview(text if text is not None else b""), end
