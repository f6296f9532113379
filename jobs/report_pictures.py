"""Best and worst queries of an evaluation, with frames of the video that was meant and of the one that was found."""

import io
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from fpig_core.bundle import Bundle
from fpig_core.drawing import draw_frame, plain_frame
from fpig_core.evaluation import MAIN, Evaluation
from fpig_core.fpig import FPig
from jobs.draw_tokens import draw_video
from pipelines.corpus import Corpus
from pipelines.guarded import decode_guarded
from pipelines.manifest import Manifest
from pipelines.quarantine import SampleError
from pipelines.reader import read_videos

MAX_FRAMES, FRAME_PX, GAP_PX = 6, 96, 4

Search = Callable[[list[str]], np.ndarray]
"""Texts -> positions [Q, K] of the videos found, best first."""


class Shown(NamedTuple):
    """A video: its name and captions, a JPEG of some frames, or the reason why there is none.

    ``has_tokens``: patches that the model did not keep are faded.
    """

    video_id: str
    captions: tuple[str, ...]
    jpeg: bytes
    fault: str
    has_tokens: bool


class Example(NamedTuple):
    """One query: its rank, the video that was meant, and the best one found if that is another."""

    text: str
    rank: int
    meant: Shown
    found: Shown | None


def choose_examples(judged: Evaluation, *, number: int) -> tuple[list[int], list[int]]:
    """Queries that are found most surely (rank 1, and far ahead of the next), and those of the worst ranks."""
    ranks = judged.ranks[MAIN]
    rank, margin = ranks.t2v_Q.numpy(), ranks.margin_Q.numpy()
    order = np.lexsort((-margin, rank))
    best = [int(q) for q in order[:number] if rank[q] == 1]
    worst = [int(q) for q in order[::-1][:number] if rank[q] > 1]
    return best, worst


def draw_examples(
    judged: Evaluation, chosen: Sequence[int], *, search: Search, bundle: Bundle, corpus: Corpus, manifest: Manifest
) -> list[Example]:
    """The chosen queries with pictures; a video that cannot be read is told, and stops nothing."""
    if not chosen:
        return []
    texts = [judged.queries.texts[q] for q in chosen]
    found = [corpus.uids[i] for i in search(texts)[:, 0]]
    meant = [judged.queries.video_ids[q] for q in chosen]
    shown = show_videos([*meant, *found], bundle=bundle, manifest=manifest)
    rank_Q = judged.ranks[MAIN].t2v_Q
    return [
        Example(text, int(rank_Q[q]), shown[own], None if own == other else shown[other])
        for q, text, own, other in zip(chosen, texts, meant, found, strict=True)
    ]


def show_videos(uids: Sequence[str], *, bundle: Bundle, manifest: Manifest) -> dict[str, Shown]:
    """Frames of samples, by uid."""
    samples = rows_of(manifest, uids)
    shown = {}
    try:
        videos: list[Any] = list(read_videos(manifest, samples))
    except OSError as error:
        videos = [SampleError("missing_shard", str(error))] * len(samples)
    for sample, data in zip(samples, videos, strict=True):
        jpeg, fault, has_tokens = b"", "", isinstance(bundle.model, FPig)
        try:
            jpeg = _strip(bundle, sample, data)
        except SampleError as error:
            fault = str(error)
        captions = tuple(sample["captions"] or [])
        shown[sample["uid"]] = Shown(sample["video_id"], captions, jpeg, fault, has_tokens)
    return shown


def rows_of(manifest: Manifest, uids: Sequence[str]) -> list[dict[str, Any]]:
    """Manifest rows of some samples, in the manifest's order."""
    wanted, start, places = pc.SetLookupOptions(pa.array(sorted(set(uids)), pa.string())), 0, []
    for rows in manifest.batches(["uid"]):
        here = pc.call_function("is_in", [rows["uid"]], wanted).to_numpy(zero_copy_only=False)
        places += (np.flatnonzero(here) + start).tolist()
        start += rows.num_rows
    return manifest.take(places).to_pylist()


def _strip(bundle: Bundle, sample: dict[str, Any], data: bytes | SampleError) -> bytes:
    """Up to ``MAX_FRAMES`` of the frames that the model sees, side by side, as JPEG."""
    kept_FP = None
    if isinstance(bundle.model, FPig):
        picture = draw_video(bundle.model, sample, data)
        frame_F3HW, kept_FP = picture.frame_F3HW, picture.kept_FP
    else:
        frame_F3HW = decode_guarded(sample, data, preprocess=bundle.config.preprocess)
    places = np.unique(np.linspace(0, len(frame_F3HW) - 1, MAX_FRAMES).round().astype(int))
    frames = [
        plain_frame(frame_F3HW[i], frame_px=FRAME_PX)
        if kept_FP is None
        else draw_frame(frame_F3HW[i], kept_FP[i], frame_px=FRAME_PX)
        for i in places
    ]
    side = frames[0].width
    strip = Image.new("RGB", (len(frames) * (side + GAP_PX) - GAP_PX, side), "white")
    for i, frame in enumerate(frames):
        strip.paste(frame, (i * (side + GAP_PX), 0))
    sink = io.BytesIO()
    strip.save(sink, "JPEG", quality=85, subsampling=0)
    return sink.getvalue()
