"""A small world to serve: videos that a browser plays, some cut into segments, and some that nobody can show."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from fpig_core.bundle import load_bundle
from fpig_core.retrieval import encode_queries
from jobs.serving.limits import ServeLimits
from jobs.serving.service import Service, Source
from pipelines.manifest import save_manifest
from tests.pipelines.videos import make_video
from tests.worlds import caption_of, write_corpus, write_model, write_shards

NUM_VIDEOS, BROKEN, REJECTED = 12, 5, 7
SEGMENT = (1.0, 2.0)
HOSTILE = '<img src=x onerror="document.title=1"> & "quotes"'


def film(number: int) -> bytes:
    """Three seconds of video."""
    return make_video(num_frames=30, height=48, width=64, fps=10, seed=number)


def write_world(root: Path) -> str:
    """Shards, a model and a corpus below ``root`` -> the corpus. Odd videos are segments of 1 to 2 s."""
    model_id = write_model(root / "model")
    found = write_shards(root / "shards", NUM_VIDEOS, flaws={BROKEN: "bad_container", REJECTED: "no_video"}, film=film)
    rows = found.table.to_pylist()
    for number, row in enumerate(rows):
        row["start_s"], row["end_s"] = SEGMENT if number % 2 else (None, None)
    rows[2]["captions"] = [HOSTILE, caption_of(2)]
    manifest = save_manifest(str(root / "shards"), pa.Table.from_pylist(rows, schema=found.table.schema))
    queries = [caption_of(number) for number in range(NUM_VIDEOS)]
    vectors = encode_queries(load_bundle(root / "model"), queries).astype(np.float32)
    corpus = str(root / "corpus")
    write_corpus(corpus, manifest, vectors, model_id=model_id, model=str(root / "model"), rejected=(REJECTED,))
    return corpus


def open_world(root: Path, *, limits: ServeLimits = ServeLimits()) -> Service:
    return Source(url=write_world(root), limits=limits).open()
