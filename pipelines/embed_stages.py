"""What the tasks of an embedding do before and after the model: read and decode videos, write parts.

A batch holds rows of one part and always has the same number of rows: what a part lacks to whole batches, and batches
to ``part_rows``, travels as padding, rows without a number. A rejected sample travels on, with a reason and empty
frames. So the model always sees the same shape, the vectors of a part depend on nothing else, and every ``part_rows``
rows are a part.
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import ray

from fpig_core.preprocess import Preprocess
from pipelines import storage
from pipelines.guarded import decode_guarded
from pipelines.manifest import Manifest
from pipelines.part_files import count_part
from pipelines.part_plan import Parts
from pipelines.parts import CorpusSpec, PartCount, Written, part_bytes, quarantine_bytes, read_table
from pipelines.quarantine import SampleError, stage_of
from pipelines.reader import read_videos

MAX_DETAIL = 300
PADDING = -1
"""The number of a row that is no sample."""

MAX_WRITES = 3

Batch = dict[str, np.ndarray]
"""Rows as Ray Data hands them on: columns by name."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
    """What all tasks of one stream share. Numbers of batches run through its ``parts``."""

    manifest: Manifest
    parts: Parts
    spec: CorpusSpec
    written: Written
    preprocess: Preprocess
    out_url: str
    batch_size: int


def decode_batch(batch: Batch, *, refs: Sequence[Any]) -> Batch:
    """The number of a batch (``id``, one row) -> its rows.

    ``row``: manifest rows; ``reason``: "" if usable; ``detail``; ``frames`` uint8 [batch_size, F, 3, H, W];
    ``rows_after``: how many rows of padding follow this batch.
    """
    work: Work = ray.get(refs[0])
    size, num_frames, num_rows = work.preprocess.size, work.preprocess.num_frames, work.batch_size
    part, rows = work.parts.batch(int(batch["id"][0]), num_rows)
    sample = work.manifest.slice(rows.start, rows.stop).to_pylist()
    row_B = np.full(num_rows, PADDING)
    row_B[: len(rows)] = rows
    frame_BF3HW = np.zeros((num_rows, num_frames, 3, size, size), np.uint8)
    reason, detail = [""] * num_rows, [""] * num_rows
    for i, data in enumerate(read_videos(work.manifest, sample, verify="sha256")):
        try:
            frame_BF3HW[i] = decode_guarded(sample[i], data, preprocess=work.preprocess)
        except SampleError as error:
            reason[i], detail[i] = error.code, error.detail
    is_last = rows.stop == part.stop
    rows_after = work.spec.part_rows - (rows.start - part.start) - num_rows if is_last else 0
    return {
        "row": row_B,
        "reason": np.array(reason),
        "detail": _text(detail),
        "frames": frame_BF3HW,
        "rows_after": np.full(num_rows, rows_after),
    }


def _text(values: Sequence[str]) -> np.ndarray:
    """Details may quote bytes from outside: cut them, and keep what Arrow can hold."""
    return np.array([value[:MAX_DETAIL].replace("\0", " ").encode("utf-8", "replace").decode() for value in values])


def write_part(batch: Batch, *, refs: Sequence[Any]) -> Batch:
    """Write one part, its quarantine file first: the part's own appearance is its commit -> one receipt row."""
    work: Work = ray.get(refs[0])
    row_B = batch["row"]
    place = work.parts.place(int(row_B[0]))
    assert place >= 0, f"{row_B} are not the rows of a part"
    part = work.parts[place]
    is_row = row_B != PADDING
    assert np.array_equal(row_B[: len(part)], np.arange(part.start, part.stop)), f"{row_B} are not the rows of a part"
    assert is_row.sum() == len(part), f"{row_B} are not the rows of a part"
    if storage.exists(part.url(work.out_url)):
        # An earlier run's late writer was first. What it rejected is in its quarantine file, so that file must stay.
        return _receipt(count_part(work.out_url, part))
    ok, bad = is_row & (batch["reason"] == ""), is_row & (batch["reason"] != "")
    rejected = batch["reason"][bad].tolist()
    why = {
        "stage": [stage_of(reason) for reason in rejected],
        "reason": rejected,
        "detail": batch["detail"][bad].tolist(),
    }
    values = {column.name: batch[column.name][ok] for column in work.spec.columns}
    rows = work.manifest.slice(part.start, part.stop)
    kept, left = (rows.take(row_B[chosen] - part.start) for chosen in (ok, bad))
    files = {
        part.quarantine_url(work.out_url): quarantine_bytes(work.spec, left, why, written=work.written),
        part.url(work.out_url): part_bytes(work.spec, kept, values, written=work.written),
    }
    for _ in range(MAX_WRITES):
        for url, data in files.items():
            storage.write_bytes(url, data)
        # A second copy of the job may write the same part at this moment. Its files hold the same rows, unless a video
        # was too slow for one of the two; so the last one to write sees to it that the two files are a pair.
        if read_table(part.quarantine_url(work.out_url), columns=["uid"]).column("uid").equals(left.column("uid")):
            return _receipt(
                PartCount(name=part.name, start=part.start, num_embedded=int(ok.sum()), rejected=Counter(rejected))
            )
    raise RuntimeError(f"another job keeps writing {part.url(work.out_url)}; end it, and run the same command again")


def _receipt(count: PartCount) -> Batch:
    rejected = json.dumps(dict(count.rejected))
    return {
        "name": np.array([count.name]),
        "start": np.array([count.start]),
        "num_embedded": np.array([count.num_embedded]),
        "rejected": np.array([rejected]),
    }
