"""What a search tells of videos beside their vectors: a table with a row a video, in the order of the corpus."""

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from pipelines import storage
from pipelines.filters import filterable
from pipelines.manifest import Manifest
from pipelines.ordered import map_on_threads
from pipelines.part_files import NUM_READERS
from pipelines.parts import read_table

SAMPLE_COLUMNS = ("uid", "video_id", "shard", "key", "start_s", "end_s", "captions")
MORE_COLUMNS = ("video_bytes", "codec", "width", "height", "duration_s")
"""Metadata that a manifest may have; all but the bytes come with probing."""


def rows_of(manifest: Manifest, uids: Sequence[str] | pa.Array) -> pa.Table:
    """The rows of a manifest with these uids, and of its columns those that say something to a searcher.

    Uids stand in the order of the manifest, as those of a corpus do.

    Raises:
        ValueError: a uid that the manifest lacks, or one out of order.
    """
    empty = manifest.slice(0, 0)
    columns = [name for name in (*SAMPLE_COLUMNS, *MORE_COLUMNS) if name in empty.column_names]
    wanted = pa.array(uids, pa.string())
    pieces = [empty.select(columns)]
    num_found = 0
    for rows in manifest.batches(columns):
        # Of those that are left, these rows can hold the next ones alone.
        expected = wanted.slice(num_found, rows.num_rows)
        found = rows.filter(pc.call_function("is_in", [rows["uid"]], pc.SetLookupOptions(expected)))
        num_found += found.num_rows
        pieces.append(found)
    table = pa.concat_tables(pieces)
    if not table["uid"].combine_chunks().equals(wanted):
        raise ValueError(
            f"found {table.num_rows} of the {len(wanted)} videos of the corpus, in its order, in the manifest at "
            f"{manifest.url}; give the one that it was made from, or embed the corpus again"
        )
    return table


def corpus_uids(url: str, meta: Mapping[str, Any]) -> pa.Array:
    """The uids of a corpus in its order, without its vectors."""
    files = (storage.join(url, "parts", f"{name}.parquet") for name in meta["parts"])
    tables = map_on_threads(lambda file: read_table(file, columns=["uid"]), files, num_threads=NUM_READERS)
    return pa.concat_arrays([pa.array([], pa.string()), *(t.column("uid").combine_chunks() for t in tables)])


def find_row(table: pa.Table, name: str) -> int:
    """The row of a video, by its uid or by its video_id.

    Raises:
        ValueError: there is none, or several rows have this video_id.
    """
    for column in ("uid", "video_id"):
        rows = pc.call_function("indices_nonzero", [pc.call_function("equal", [table.column(column), name])])
        if len(rows) > 1:
            uids = ", ".join(table.column("uid").take(rows[:5]).to_pylist())
            raise ValueError(f"got video {name!r}, of which there are {len(rows)} segments; give a uid: {uids} …")
        if len(rows):
            return rows[0].as_py()
    raise ValueError(f"got video {name!r}, wanted the uid or video_id of one of the {table.num_rows} videos here")


def with_metadata(rows: pa.Table, table_url: str) -> pa.Table:
    """``rows`` with the columns of a Parquet, CSV or TSV table, joined by its ``video_id``.

    Videos that the table does not name have no values there.

    Raises:
        ValueError: the table cannot be read, has no or equal video_ids, names none of the videos, or has a column of a
            name that is taken or of a type that conditions cannot be on.
    """
    table = _read(table_url)
    if "video_id" not in table.column_names:
        raise ValueError(f"got columns {', '.join(table.column_names)} in {table_url}, wanted video_id among them")
    key = table.column("video_id").cast(pa.string()).combine_chunks()
    if len(key.unique()) < len(key):
        raise ValueError(f"got a video_id more than once in {table_url}, wanted one row a video")
    more = table.drop_columns(["video_id"])
    if taken := sorted(set(more.column_names) & set(rows.column_names)):
        raise ValueError(f"got a column {taken[0]!r} in {table_url}, which every video has already; rename it")
    if strange := sorted(set(more.column_names) - filterable(more.schema).keys()):
        kind = more.schema.field(strange[0]).type
        raise ValueError(
            f"got {strange[0]!r} of type {kind} in {table_url}, wanted text, numbers, truth values or dates"
        )
    place = pc.call_function("index_in", [rows["video_id"]], pc.SetLookupOptions(key))
    if rows.num_rows and place.null_count == rows.num_rows:
        raise ValueError(f"{table_url} names none of the {rows.num_rows} videos; are these their video_ids?")
    joined = more.take(place)
    for name in joined.column_names:
        rows = rows.append_column(name, joined.column(name))
    return rows


def _read(url: str) -> pa.Table:
    suffix = PurePosixPath(url).suffix.lower()
    if suffix not in (".parquet", ".csv", ".tsv"):
        raise ValueError(f"got the table {url}, wanted .parquet, .csv or .tsv")
    try:
        data = pa.BufferReader(storage.read_bytes(url))
        if suffix == ".parquet":
            return pq.read_table(data)
        layout = pa_csv.ParseOptions(delimiter="\t" if suffix == ".tsv" else ",")
        return pa_csv.read_csv(
            data, parse_options=layout, convert_options=pa_csv.ConvertOptions(column_types={"video_id": pa.string()})
        )
    except FileNotFoundError:
        raise ValueError(f"got no table at {url}; check the path") from None
    except pa.ArrowException as error:
        raise ValueError(f"got {url}, which is no sound {suffix} file: {error}") from None
