"""Any model that turns texts and videos into vectors, judged as ours are, with what it costs.

An encoder written for MTEB needs two lines: ``encode_texts`` and ``encode_videos`` that call its ``encode`` with the
right data loader. The way back, our models in MTEB, is ``jobs/mteb_encoder.py``.
"""

import itertools
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from fpig_core.evaluation import Evaluation, Extras, Queries, Subject, evaluate_vectors
from fpig_core.index import ExactIndex

BATCH = 32
NUM_TIMED = 20


class Encoder(Protocol):
    """What a model must offer; vectors are compared by inner product, so cosines want vectors of unit length."""

    def encode_texts(self, texts: Sequence[str], /) -> Tensor | np.ndarray:
        """Vectors [Q, D]."""
        ...

    def encode_videos(self, videos: Sequence[Any], /) -> Tensor | np.ndarray:
        """Vectors [B, D] of videos in whatever form the model takes."""
        ...


def evaluate_encoder(
    encoder: Encoder,
    queries: Queries,
    videos: Iterable[tuple[str, Any]],
    *,
    subject: Subject,
    extras: Extras = Extras(),
    batch: int = BATCH,
) -> Evaluation:
    """Encode ``videos``, pairs of id and video that are taken ``batch`` at a time, and the queries; judge the vectors.

    Raises:
        ValueError: no videos, or what ``evaluate_vectors`` refuses.
    """
    video_ids, blocks, started = [], [], time.perf_counter()
    pairs = iter(videos)
    while chunk := list(itertools.islice(pairs, batch)):
        video_ids += [video_id for video_id, _ in chunk]
        blocks.append(torch.as_tensor(encoder.encode_videos([video for _, video in chunk])).cpu())
    if not blocks:
        raise ValueError("got no videos, wanted at least one")
    seconds, video_BD = time.perf_counter() - started, torch.cat(blocks)
    query_QD = torch.cat(
        [
            torch.as_tensor(encoder.encode_texts(queries.texts[start : start + batch])).cpu()
            for start in range(0, len(queries.texts), batch)
        ]
    )
    judged = evaluate_vectors(queries, query_QD, video_ids, video_BD, subject=subject, extras=extras)
    index = ExactIndex(video_BD.float().numpy())

    def search(text: str) -> None:
        index.search(torch.as_tensor(encoder.encode_texts([text])).cpu().float().numpy(), 10)

    judged.result["bytes_per_video"] = video_BD[0].numel() * video_BD.element_size()
    judged.result["ms_per_query"] = milliseconds_each(search, queries.texts[:NUM_TIMED])
    judged.result["videos_per_s"] = len(video_ids) / seconds
    return judged


def milliseconds_each(search: Callable[[str], object], texts: Sequence[str]) -> float:
    """Median wall time of one search, one text at a time; a first search warms up and does not count."""
    times = []
    for text in [texts[0], *texts]:
        start = time.perf_counter()
        search(text)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:]) * 1000
