"""A corpus in the layouts of other tools. Its own parts are plain Parquet, and need no export to be read."""

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines import storage
from pipelines.part_vectors import iter_vectors

Format = Literal["clip-retrieval", "lance"]
ROWS_PER_FILE = 250_000


def export_corpus(
    corpus_url: str,
    out: str,
    *,
    corpus_meta: Mapping[str, Any],
    rows: pa.Table,
    layout: Format,
    rows_per_file: int = ROWS_PER_FILE,
) -> int:
    """Write the vectors and ``rows`` of a corpus into the new local folder ``out`` -> number of files.

    The folder appears when it is complete.

    Raises:
        ValueError: ``out`` is there already or is no local folder, a part is damaged, or Lance is not installed.
    """
    local = storage.local_path(out)
    if local is None:
        raise ValueError(f"got {out}, wanted a local folder; export there and copy it")
    if Path(local).exists():
        raise ValueError(f"got {out}, which is there already; give a new folder")
    if rows_per_file < 1:
        raise ValueError(f"got rows_per_file={rows_per_file}, wanted at least 1")
    write = _WRITERS[layout]
    Path(local).parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=Path(local).parent, prefix=".draft-") as place:
        draft = Path(place) / "export"
        write(draft, rows, _blocks(corpus_url, corpus_meta, rows_per_file), rows_per_file)
        os.replace(draft, local)
    return sum(1 for path in Path(local).rglob("*") if path.is_file())


def _blocks(corpus_url: str, corpus_meta: Mapping[str, Any], num_rows: int) -> Iterator[np.ndarray]:
    """The vectors in blocks of ``num_rows``, the last one shorter."""
    waiting: list[np.ndarray] = []
    for vector in iter_vectors(corpus_url, corpus_meta):
        waiting.append(vector)
        while sum(map(len, waiting)) >= num_rows:
            joined = np.concatenate(waiting)
            yield joined[:num_rows]
            waiting = [joined[num_rows:]]
    if sum(map(len, waiting)):
        yield np.concatenate(waiting)


def _clip_retrieval(draft: Path, rows: pa.Table, blocks: Iterator[np.ndarray], rows_per_file: int) -> None:
    """``img_emb/img_emb_N.npy`` beside ``metadata/metadata_N.parquet``, as clip-retrieval's NumpyWriter names them.

    ``image_path`` and ``caption`` (the first one, or "") come first; N has as many digits as the number of files.
    """
    for folder in ("img_emb", "metadata"):
        (draft / folder).mkdir(parents=True)
    digits = len(str(max(1, -(-rows.num_rows // rows_per_file))))
    for number, block in enumerate(blocks):
        some = rows.slice(number * rows_per_file, len(block))
        captions = some.column("captions").to_pylist()
        columns = {
            "image_path": pc.call_function(
                "binary_join_element_wise", [some.column("shard"), some.column("key"), pa.scalar("/")]
            ),
            "caption": pa.array([texts[0] if texts else "" for texts in captions], pa.string()),
        }
        table = pa.table(columns | {name: some.column(name) for name in some.column_names})
        name = str(number).zfill(digits)
        np.save(draft / "img_emb" / f"img_emb_{name}.npy", np.ascontiguousarray(block), allow_pickle=False)
        pq.write_table(table, draft / "metadata" / f"metadata_{name}.parquet")


def _lance(draft: Path, rows: pa.Table, blocks: Iterator[np.ndarray], rows_per_file: int) -> None:
    """A Lance dataset: the columns of ``rows`` and ``vector``, a fixed-size list in the dtype of the corpus."""
    try:
        import lance
    except ModuleNotFoundError:
        raise ValueError("Lance is not installed; run: pip install 'fpig[lance]'") from None

    def batches(first: np.ndarray) -> Iterator[pa.RecordBatch]:
        start, block = 0, first
        while block is not None:
            flat = pa.array(np.ascontiguousarray(block).reshape(-1))
            vector = pa.FixedSizeListArray.from_arrays(flat, block.shape[1])
            some = rows.slice(start, len(block)).append_column("vector", vector)
            yield from some.combine_chunks().to_batches()
            start, block = start + len(block), next(blocks, None)

    first = next(blocks, None)
    if first is None:
        raise ValueError("the corpus holds no video: there is nothing to export")
    kind = pa.list_(pa.from_numpy_dtype(first.dtype), first.shape[1])
    schema = rows.schema.append(pa.field("vector", kind)).remove_metadata()
    reader = pa.RecordBatchReader.from_batches(schema, (each.cast(schema) for each in batches(first)))
    lance.write_dataset(reader, str(draft), max_rows_per_file=rows_per_file)


_WRITERS: dict[Format, Callable[[Path, pa.Table, Iterator[np.ndarray], int], None]] = {
    "clip-retrieval": _clip_retrieval,
    "lance": _lance,
}
