"""Write the Parquet file of a manifest as the rows come, in row groups of bounded size; ``row_groups`` reads it."""

import contextlib
import hashlib
import json
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines import storage
from pipelines.quarantine import OK

DIGEST_KEY = b"fpig.manifest_digest"
COUNTS_KEY = b"fpig.row_groups"
"""Metadata: for each row group the numbers of its samples that are ok and that are captioned, as JSON."""
GROUP_ROWS = 1 << 16
GROUP_BYTES = 16 << 20
_MAX_WAITING = 256  # tables, of which each takes some 15 kB beside its rows
_ROW_BYTES = 300  # of all columns but the captions, about


def is_ok(rows: pa.Table) -> np.ndarray:
    """bool [rows]: the samples whose status is ok."""
    return pc.call_function("equal", [rows["status"], pa.scalar(OK)]).to_numpy().astype(bool)


def is_captioned(rows: pa.Table) -> np.ndarray:
    """bool [rows]: the samples that are ok and have at least one caption, fit for training."""
    counts = pc.call_function("list_value_length", [rows["captions"]]).fill_null(0).to_numpy()
    return is_ok(rows) & (counts > 0)


def rows_digest(table: pa.Table) -> str:
    """sha256 over rows in their order, as JSON."""
    digest = hashlib.sha256()
    for batch in table.to_batches(max_chunksize=4096):
        for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            digest.update(json.dumps(row, ensure_ascii=True, separators=(",", ":")).encode() + b"\n")
    return digest.hexdigest()


def join_digests(digests: Iterable[str]) -> str:
    """One digest of many, in their order."""
    whole = hashlib.sha256()
    for digest in digests:
        whole.update(_line(digest))
    return whole.hexdigest()


def _line(digest: str) -> bytes:
    return digest.encode() + b"\n"


class ManifestWriter:
    """Takes the rows of one shard after the other. Equal rows give equal bytes, however they were cut."""

    def __init__(self, path: Path, schema: pa.Schema):
        self._file = pq.ParquetWriter(path, schema, compression="zstd", write_statistics=False)
        self._schema = schema
        self._waiting: list[pa.Table] = []
        self._room_rows, self._room_bytes = GROUP_ROWS, GROUP_BYTES
        self._digest = hashlib.sha256()
        self._counts: list[tuple[int, int]] = []

    def write(self, rows: pa.Table, *, digest: str) -> None:
        """Add the rows of one shard, whose ``rows_digest`` is known. A shard without rows changes nothing."""
        if not rows.num_rows:
            return
        self._digest.update(_line(digest))
        rows = rows.cast(self._schema)
        end_bytes = np.cumsum(_row_bytes(rows))
        start = 0
        while start < rows.num_rows:
            before = int(end_bytes[start - 1]) if start else 0
            fit = int(np.searchsorted(end_bytes, before + self._room_bytes, side="right"))
            stop = min(fit, start + self._room_rows)
            if stop == start and not self._waiting:
                stop = start + 1
            if stop > start:
                self._waiting.append(rows.slice(start, stop - start))
                self._room_rows -= stop - start
                self._room_bytes -= int(end_bytes[stop - 1]) - before
                if len(self._waiting) == _MAX_WAITING:
                    self._waiting = [pa.concat_tables(self._waiting).combine_chunks()]
            if stop < rows.num_rows:
                self._flush()
            start = stop

    def close(self) -> str:
        """Finish the file -> digest of all rows."""
        self._flush()
        digest = self._digest.hexdigest()
        self._file.add_key_value_metadata(
            {DIGEST_KEY.decode(): digest, COUNTS_KEY.decode(): json.dumps(self._counts, separators=(",", ":"))}
        )
        self._file.close()
        return digest

    def _flush(self) -> None:
        if self._waiting:
            # One chunk, for encodings depend on where chunks end.
            group = pa.concat_tables(self._waiting).combine_chunks()
            self._file.write_table(group, row_group_size=GROUP_ROWS)
            self._counts.append((int(is_ok(group).sum()), int(is_captioned(group).sum())))
        self._waiting = []
        self._room_rows, self._room_bytes = GROUP_ROWS, GROUP_BYTES


def _row_bytes(rows: pa.Table) -> np.ndarray:
    """int64 [rows]: about what each row takes in memory."""
    captions = rows.column("captions").combine_chunks()
    end_letters = np.concatenate([[0], np.cumsum(pc.call_function("binary_length", [captions.flatten()]).fill_null(0))])
    counts = captions.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    stop = np.cumsum(counts)
    return (_ROW_BYTES + end_letters[stop] - end_letters[stop - counts]).astype(np.int64)


@contextlib.contextmanager
def writing(url: str, schema: pa.Schema) -> Iterator[ManifestWriter]:
    """A writer whose file appears at ``url`` when the block ends well; call ``close`` in it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "manifest.parquet"
        yield ManifestWriter(path, schema)
        storage.upload(path, url)
