"""The validation of an epoch on two workers: ranks by plain loops over all vectors, in the order they were gathered."""

import numpy as np
import pytest
import torch

from cluster.validation import Validation
from tests.cluster.gloo import run_workers

BATCHES, ROWS, WIDTH = 2, 3, 4
UNREADABLE = {(0, 0, 2), (1, 1, 0)}
"""(rank, batch, row) of slots that could not be decoded."""


def rows_of(rank: int, batch: int) -> tuple[torch.Tensor, torch.Tensor, dict]:
    generator = torch.Generator().manual_seed(10 * rank + batch)
    text, video = torch.randn(2, ROWS, WIDTH, generator=generator).unbind()
    names = [f"{rank}-{batch}-{row}" for row in range(ROWS)]
    block = {
        "uid": np.array(names, dtype=object),
        "caption": np.array([f"caption {name}" for name in names], dtype=object),
        "ok": np.array([(rank, batch, row) not in UNREADABLE for row in range(ROWS)]),
    }
    return text, video, block


def validate(rank: int, num_workers: int) -> tuple[dict, list, bool]:
    validation = Validation(torch.device("cpu"))
    for batch in range(BATCHES):
        text, video, block = rows_of(rank, batch)
        validation.add({"text": text, "video": video}, block)
    judged = validation.judge()
    assert judged
    validation.add({"text": text, "video": video}, block | {"ok": np.zeros(ROWS, dtype=bool)})
    return judged.metrics, judged.queries, validation.judge() is None


def test_every_query_has_its_rank_and_what_came_first() -> None:
    results = run_workers(validate, 2)
    names, texts, videos = [], [], []
    for rank in range(2):
        for batch in range(BATCHES):
            text, video, block = rows_of(rank, batch)
            for row in np.flatnonzero(block["ok"]):
                names.append(block["uid"][row])
                texts.append(text[row].double().tolist())
                videos.append(video[row].double().tolist())
    ranks = []
    for query, (uid, vector) in enumerate(zip(names, texts, strict=True)):
        scores = [sum(a * b for a, b in zip(vector, other, strict=True)) for other in videos]
        ranks.append(sum(score >= scores[query] for score in scores))
        for _, queries, _ in results:
            first = names[scores.index(max(scores))]
            assert tuple(queries[query]) == (uid, f"caption {uid}", ranks[-1], first)
    for metrics, queries, was_empty in results:
        assert len(queries) == len(names)
        assert metrics["t2v_r1"] == pytest.approx(100 * ranks.count(1) / len(ranks))
        assert metrics["t2v_mnr"] == pytest.approx(sum(ranks) / len(ranks))
        assert was_empty
