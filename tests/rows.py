"""Videos by the numbers of their manifest rows."""

from collections.abc import Iterator, Sequence
from typing import Any

from pipelines.manifest import Manifest
from pipelines.reader import Video, read_videos


def videos_of_rows(manifest: Manifest, rows: Sequence[int], **options: Any) -> Iterator[Video]:
    return read_videos(manifest, manifest.take(rows).to_pylist(), **options)
