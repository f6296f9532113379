"""What a validation shows beside its numbers: a table of all queries, and pictures of the best and the worst."""

import io
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cluster.tracking import Tracker
from cluster.validation import RankedQuery
from fpig_core.bundle import load_bundle
from fpig_core.drawing import TokenPicture, draw_contact_sheet
from fpig_core.fpig import FPig
from jobs.draw_tokens import draw_video
from jobs.report_pictures import rows_of
from pipelines.guarded import decode_guarded
from pipelines.manifest import Manifest
from pipelines.quarantine import SampleError
from pipelines.reader import read_videos

NUM_EACH = 4
FOLDER = "validation"


def log_table(tracker: Tracker, queries: Sequence[RankedQuery], *, epoch: int) -> None:
    """All queries, the worst first, as a table that MLflow shows."""
    ranked = sorted(queries, key=lambda query: (-query.rank, query.uid))
    table = {"columns": list(RankedQuery._fields), "data": [list(query) for query in ranked]}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"queries-epoch-{epoch:04d}.json"
        path.write_text(json.dumps(table))
        tracker.log_artifact(path, folder=FOLDER)


def log_pictures(
    tracker: Tracker, bundle_folder: Path, manifest: Manifest, queries: Sequence[RankedQuery], *, epoch: int
) -> None:
    """The videos of the best and the worst queries, with the patches that the model kept of them."""
    ranked = sorted(queries, key=lambda query: (query.rank, query.uid))
    chosen = ranked if len(ranked) <= 2 * NUM_EACH else ranked[:NUM_EACH] + ranked[-NUM_EACH:]
    model = load_bundle(bundle_folder).model
    samples = rows_of(manifest, [query.uid for query in chosen])
    videos = read_videos(manifest, samples)
    found = {sample["uid"]: (sample, data) for sample, data in zip(samples, videos, strict=True)}
    drawn = [_draw(model, query, *found[query.uid]) for query in chosen]
    pictures = [picture for picture in drawn if picture is not None]
    if not pictures:
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"queries-epoch-{epoch:04d}.png"
        sink = io.BytesIO()
        heading = f"Best and worst queries of the validation after epoch {epoch}"
        draw_contact_sheet(pictures, heading=heading).save(sink, "PNG", optimize=True)
        path.write_bytes(sink.getvalue())
        tracker.log_artifact(path, folder=FOLDER)


def _draw(model: Any, query: RankedQuery, sample: dict[str, Any], data: Any) -> TokenPicture | None:
    title = f"rank {query.rank}: {sample['video_id']}"
    try:
        if isinstance(model, FPig):
            return draw_video(model, sample, data)._replace(title=title, caption=query.caption)
        frame_F3HW = decode_guarded(sample, data, preprocess=model.config.preprocess)
    except SampleError:
        return None  # it was readable an hour ago; the job's rejected samples are on record
    everything = np.ones((len(frame_F3HW), model.video.num_patches), dtype=bool)
    return TokenPicture(title=title, caption=query.caption, frame_F3HW=frame_F3HW, kept_FP=everything)
