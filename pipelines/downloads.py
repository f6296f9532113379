"""What video2dataset and img2dataset tell of their downloads: in the json of each sample, and in a table a shard."""

import json
from collections.abc import Iterable, Mapping

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import storage

_COLUMNS = ("key", "status", "error_message")
_SUCCESS = "success"
_MAX_DETAIL = 300


def failed_download(text: Mapping[str, bytes]) -> str:
    """Why the downloader left a sample without its video, by the text members of the sample; "" if it tells nothing."""
    try:
        fields = json.loads(text.get("json") or b"{}")
    except (ValueError, RecursionError):
        return ""
    status = fields.get("status") if isinstance(fields, dict) else None
    if not isinstance(status, str) or not status or status == _SUCCESS:
        return ""
    return f"{status}: {fields.get('error_message') or 'no message'}"[:_MAX_DETAIL]


def absent_downloads(shard_url: str, keys: Iterable[str]) -> list[str]:
    """Keys that the table beside a shard (``X.parquet`` of ``X.tar``) calls downloaded, and that ``keys`` lacks.

    [] without such a table, or with another one of that name.
    """
    url = shard_url.removesuffix(".tar") + ".parquet"
    if storage.stamp(url) is None:
        return []
    try:
        file = pq.ParquetFile(pa.BufferReader(storage.read_bytes(url)))
        if not set(_COLUMNS) <= set(file.schema_arrow.names):
            return []
        rows = file.read(columns=["key", "status"]).to_pylist()
    except pa.ArrowException:
        return []
    known = set(keys)
    return [str(row["key"]) for row in rows if row["status"] == _SUCCESS and str(row["key"]) not in known]
