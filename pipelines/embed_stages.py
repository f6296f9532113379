"""What the tasks of an embedding do before and after the model: read and decode videos, write parts.

Rows keep their order and number through all stages: a rejected sample travels on, with a reason and empty frames, so
that the boundaries of parts never move.
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
from pipelines.parts import CorpusSpec, PartCount, part_bytes, quarantine_bytes
from pipelines.quarantine import SampleError, stage_of
from pipelines.reader import read_videos

MAX_DETAIL = 300

Batch = dict[str, np.ndarray]
"""Rows as Ray Data hands them on: columns by name."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
    """What all tasks of one stream share. Positions number the samples of its ``parts``."""

    manifest: Manifest
    parts: Parts
    spec: CorpusSpec
    preprocess: Preprocess
    out_url: str


def decode_rows(batch: Batch, *, refs: Sequence[Any]) -> Batch:
    """Positions (``id``) -> ``row``, ``reason`` ("" if usable), ``detail`` and ``frames`` uint8 [rows, F, 3, H, W]."""
    work: Work = ray.get(refs[0])
    row_B = work.parts.rows(batch["id"])
    sample = work.manifest.take(row_B).to_pylist()
    size, num_frames = work.preprocess.size, work.preprocess.num_frames
    frame_BF3HW = np.zeros((len(row_B), num_frames, 3, size, size), np.uint8)
    reason, detail = [""] * len(row_B), [""] * len(row_B)
    for i, data in enumerate(read_videos(work.manifest, sample, verify="sha256")):
        try:
            frame_BF3HW[i] = decode_guarded(sample[i], data, preprocess=work.preprocess)
        except SampleError as error:
            reason[i], detail[i] = error.code, error.detail
    return {"row": row_B, "reason": np.array(reason), "detail": _text(detail), "frames": frame_BF3HW}


def _text(values: Sequence[str]) -> np.ndarray:
    """Details may quote bytes from outside: cut them, and keep what Arrow can hold."""
    return np.array([value[:MAX_DETAIL].replace("\0", " ").encode("utf-8", "replace").decode() for value in values])


def write_part(batch: Batch, *, refs: Sequence[Any]) -> Batch:
    """Write one part, its quarantine file first: the part's own appearance is its commit -> one receipt row."""
    work: Work = ray.get(refs[0])
    row_B = batch["row"]
    part = work.parts.at(int(row_B[0]))
    assert part is not None, f"{row_B} are not the rows of a part"
    assert np.array_equal(row_B, np.arange(part.start, part.stop)), f"{row_B} are not the rows of a part"
    if storage.exists(part.url(work.out_url)):
        # An earlier run's late writer was first. What it rejected is in its quarantine file, so that file must stay.
        return _receipt(count_part(work.out_url, part))
    ok, rejected = batch["reason"] == "", batch["reason"][batch["reason"] != ""].tolist()
    why = {
        "stage": [stage_of(reason) for reason in rejected],
        "reason": rejected,
        "detail": batch["detail"][~ok].tolist(),
    }
    values = {column.name: batch[column.name][ok] for column in work.spec.columns}
    take = work.manifest.take
    storage.write_bytes(part.quarantine_url(work.out_url), quarantine_bytes(work.spec, take(row_B[~ok]), why))
    storage.write_bytes(part.url(work.out_url), part_bytes(work.spec, take(row_B[ok]), values))
    return _receipt(PartCount(name=part.name, start=part.start, num_embedded=int(ok.sum()), rejected=Counter(rejected)))


def _receipt(count: PartCount) -> Batch:
    rejected = json.dumps(dict(count.rejected))
    return {
        "name": np.array([count.name]),
        "start": np.array([count.start]),
        "num_embedded": np.array([count.num_embedded]),
        "rejected": np.array([rejected]),
    }
