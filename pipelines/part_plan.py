"""Cut a manifest into parts: which rows stand in each, and how it is named.

A part is a run of consecutive manifest rows of one shard. Its name is a digest of the corpus that it belongs to and of
what its samples are, not of where they stand: the same work done twice, by a rerun or by a late writer, lands on the
same file with the same vectors; other shards may come and go; and a video that was replaced is another part.
"""

import dataclasses
import hashlib
from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines import storage
from pipelines.manifest import Manifest

_NAME_LETTERS = 32
NAMED_BY = ("uid", "video_id", "video_suffix", "start_s", "end_s", "sha256", "status")
"""Columns of the manifest that make a part's name: all that its files or its vectors depend on."""
NAMED_BY_PLACE = ("shard_bytes", "video_offset", "video_bytes")
"""They stand in for a sha256 that is not there."""


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
    """All or some parts of a plan in manifest order, 44 bytes each: a ``Part`` is made when it is asked for.

    ``names``: letters as bytes [parts]. ``starts``: first manifest rows, int64 [parts]. ``sizes``: numbers of rows,
    int32 [parts], at least 1 and at most ``part_rows``.
    """

    names: np.ndarray
    starts: np.ndarray
    sizes: np.ndarray
    part_rows: int

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
        return Part(name=self.names[index].decode(), start=start, stop=start + int(self.sizes[index]))

    def where(self, chosen: slice | np.ndarray) -> "Parts":
        """Those of a slice, or of a mask: bool [parts]."""
        return dataclasses.replace(self, names=self.names[chosen], starts=self.starts[chosen], sizes=self.sizes[chosen])

    @property
    def num_samples(self) -> int:
        """Manifest rows in these parts."""
        return int(self.sizes.sum())

    def num_batches(self, batch_size: int) -> int:
        """Batches of at most ``batch_size`` rows, none of which holds rows of two parts."""
        return int(self.batch_ends(batch_size)[-1]) if len(self) else 0

    def batch_ends(self, batch_size: int) -> np.ndarray:
        """How many batches there are up to the end of each part: int64 [parts]."""
        return np.cumsum(-(-self.sizes.astype(np.int64) // batch_size))

    def batch(self, number: int, batch_size: int) -> tuple[Part, range]:
        """The part that a batch belongs to, and the manifest rows of the batch."""
        ends = self.batch_ends(batch_size)
        place = int(np.searchsorted(ends, number, side="right"))
        part = self[place]
        start = part.start + batch_size * (number - (int(ends[place - 1]) if place else 0))
        return part, range(start, min(start + batch_size, part.stop))

    def place(self, start: int) -> int:
        """The place in these parts of the one that begins at a manifest row, -1 if there is none."""
        place = int(np.searchsorted(self.starts, start))
        return place if place < len(self) and self.starts[place] == start else -1


def part_name(corpus: str, samples: Sequence[Mapping[str, Any]]) -> str:
    """32 hex digits that name the vectors of these manifest rows in this corpus."""
    digest = _begin(corpus)
    for sample in samples:
        by_place = [None if sample["sha256"] else sample[name] for name in NAMED_BY_PLACE]
        values = [*(sample[name] for name in NAMED_BY), *by_place]
        texts = [_value_text(value) for value in values]
        # Only this one comes from outside. Told by its length, it cannot pass for what stands beside it.
        texts.insert(0, str(len(sample["video_id"] or "")))
        digest.update("".join(f"{text}\n" for text in texts).encode())
    return digest.hexdigest()[:_NAME_LETTERS]


def _value_text(value: Any) -> str:
    """Floats by their bits, which no library writes in another way."""
    if isinstance(value, float):
        value = int(np.float64(value).view(np.int64))
    return "" if value is None else str(value)


def plan_parts(manifest: Manifest, corpus: str, *, part_rows: int = 256) -> Parts:
    """Cut each shard into parts of ``part_rows`` rows, its last one shorter, in manifest order.

    ``corpus`` is what else belongs into the names (``CorpusSpec.digest``). They are those of ``part_name``. The
    manifest is read one row group after the other.
    """
    names, starts, sizes = bytearray(), array("q"), array("i")
    digest, size, shard, row = _begin(corpus), 0, "", 0

    def close() -> None:
        nonlocal digest, size
        if size:
            names.extend(digest.hexdigest()[:_NAME_LETTERS].encode())
            starts.append(row - size)
            sizes.append(size)
        digest, size = _begin(corpus), 0

    for rows in manifest.batches(["shard", *NAMED_BY, *NAMED_BY_PLACE]):
        text, end = _framed(rows)
        for name, first, last in _runs(rows["shard"]):
            if name != shard:
                close()
                shard = name
            while first < last:
                stop = min(first + part_rows - size, last)
                digest.update(text[end[first] : end[stop]])
                size, row, first = size + stop - first, row + stop - first, stop
                if size == part_rows:
                    close()
    close()
    return Parts(
        names=np.frombuffer(bytes(names), f"S{_NAME_LETTERS}"),
        starts=np.array(starts, np.int64),
        sizes=np.array(sizes, np.int32),
        part_rows=part_rows,
    )


def _begin(corpus: str) -> Any:
    return hashlib.sha256(f"{len(corpus)}:{corpus}\n".encode())


def _runs(column: pa.ChunkedArray) -> Iterator[tuple[str, int, int]]:
    """(value, start, stop) of each run of equal values."""
    runs = pc.call_function("run_end_encode", [column.combine_chunks()])
    start = 0
    for value, stop in zip(runs.values.to_pylist(), runs.run_ends.to_pylist(), strict=True):
        yield value, start, stop
        start = stop


def _framed(rows: pa.Table) -> tuple[memoryview, np.ndarray]:
    """What a name takes of the rows as one text, and where each begins: int32 [rows + 1]."""
    text = {name: _texts(rows[name]) for name in (*NAMED_BY, *NAMED_BY_PLACE)}
    has_digest = pc.call_function("not_equal", [text["sha256"], pa.scalar("")])
    for name in NAMED_BY_PLACE:
        text[name] = pc.call_function("if_else", [has_digest, pa.scalar(""), text[name]])
    length = pc.call_function("utf8_length", [text["video_id"]]).cast(pa.string())
    pieces = [length, *text.values(), pa.scalar(""), pa.scalar("\n")]
    joined = pc.call_function("binary_join_element_wise", pieces)
    assert not joined.null_count
    _, ends, data = joined.buffers()
    end = np.frombuffer(ends, np.int32)[joined.offset : joined.offset + len(joined) + 1]
    return memoryview(data if data is not None else b""), end


def _texts(column: pa.ChunkedArray) -> pa.Array:
    """``_value_text`` of each value."""
    values = column.combine_chunks()
    if pa.types.is_floating(values.type):
        values = values.view(pa.int64())
    return values.cast(pa.string()).fill_null("")
