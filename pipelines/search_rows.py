"""What a search tells of videos beside their vectors: a table with a row a video, in the order of the corpus."""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.manifest import Manifest

SAMPLE_COLUMNS = ("uid", "video_id", "shard", "key", "start_s", "end_s", "captions")
MORE_COLUMNS = ("video_bytes", "codec", "width", "height", "duration_s")
"""Metadata that a manifest may have; all but the bytes come with probing."""


def rows_of(manifest: Manifest, uids: Sequence[str] | pa.Array) -> pa.Table:
    """The rows of a manifest with these uids, in this order, and of its columns those that say something to a searcher.

    Raises:
        ValueError: a uid that the manifest lacks.
    """
    empty = manifest.slice(0, 0)
    columns = [name for name in (*SAMPLE_COLUMNS, *MORE_COLUMNS) if name in empty.column_names]
    wanted = pa.array(uids, pa.string())
    pieces = [empty.select(columns).append_column("place", pa.array([], pa.int32()))]
    for rows in manifest.batches(columns):
        place = pc.call_function("index_in", [rows["uid"]], pc.SetLookupOptions(wanted))
        pieces.append(rows.append_column("place", place).filter(place.is_valid()))
    table = pa.concat_tables(pieces)
    if table.num_rows != len(wanted):
        raise ValueError(
            f"found {table.num_rows} of the {len(wanted)} videos of the corpus in the manifest at {manifest.url}; "
            "give the one that it was made from, or embed the corpus again"
        )
    return table.sort_by("place").drop_columns(["place"])


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
