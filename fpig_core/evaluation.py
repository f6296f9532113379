"""One evaluation for every model: vectors or scores of queries and videos in, a result with its protocol out.

``jobs.evaluate`` uses it for corpora. For models from elsewhere:

>>> queries = Queries(ids=("q1", "q2"), texts=("a dog runs", "two cats"), video_ids=("v1", "v2"))
>>> subject = Subject(model_id="theirs", data_id="my videos")
>>> judged = evaluate_vectors(queries, query_QD, ("v1", "v2"), video_BD, subject=subject)
>>> judged.result["t2v"]["R@1"]

``docs/evaluation.md`` describes every field of the result.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from fpig_core.bootstrap import LEVEL, NUM_RESAMPLES, intervals
from fpig_core.breakdown import by_category, by_length
from fpig_core.metrics import summarise_both
from fpig_core.normalisers import Bank, NormaliserName, full_name, rank_normalised
from fpig_core.ranks import MatrixScores, Ranks, VectorScores, rank_both, targets_by_id

SCHEMA = "fpig.evaluation/1"
MAIN, FIRST_STAGE = "main", "first_stage"
TIE_RULE = "pessimistic"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Queries:
    """Texts to search with. ``ids`` name each of them once, ``video_ids`` the one video that each describes."""

    ids: tuple[str, ...]
    texts: tuple[str, ...]
    video_ids: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.ids or not len(self.ids) == len(self.texts) == len(self.video_ids):
            raise ValueError(
                f"got {len(self.ids)} ids, {len(self.texts)} texts and {len(self.video_ids)} videos of queries; "
                "wanted as many of each, and at least one"
            )
        if len(set(self.ids)) < len(self.ids):
            raise ValueError(
                f"got {len(self.ids)} queries with {len(set(self.ids))} distinct ids, wanted one id a query"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subject:
    """What is judged, and on what. ``data_id``: the digest of the manifest, or another name of exactly this data."""

    model_id: str
    data_id: str
    split: str = "test"
    queries: str = "given"
    select_on: str = "unknown"
    first_stage_k: int | None = None

    def __post_init__(self) -> None:
        if not self.model_id or not self.data_id:
            raise ValueError(f"got model_id={self.model_id!r}, data_id={self.data_id!r}; a result must name both")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Extras:
    """What is worked out beside the metrics. ``categories``: category by id of the video."""

    normalisers: tuple[NormaliserName, ...] = ()
    bank: Bank | None = None
    categories: Mapping[str, str] = dataclasses.field(default_factory=dict)
    num_resamples: int = NUM_RESAMPLES
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_resamples < 1:
            raise ValueError(f"got num_resamples={self.num_resamples}, wanted at least 1")
        if ("qb_norm" in self.normalisers) != (self.bank is not None):
            raise ValueError(
                f"got normalisers {', '.join(self.normalisers) or 'none'} {'with' if self.bank else 'without'} a bank; "
                "qb_norm needs a bank of queries from another set, and the others take none"
            )


class Evaluation(NamedTuple):
    """``result``: JSON values. ``ranks`` by name: main, first_stage, and those of normalisers by their full names."""

    result: dict[str, Any]
    ranks: dict[str, Ranks]
    queries: Queries
    video_ids: tuple[str, ...]


def evaluate_vectors(
    queries: Queries,
    query_QD: Tensor,
    video_ids: Sequence[str],
    video_BD: Tensor,
    *,
    subject: Subject,
    extras: Extras = Extras(),
) -> Evaluation:
    """Judge a model by vectors whose inner products are its scores; every video is a candidate.

    Raises:
        ValueError: NaN or inf, shapes that do not fit, an id that stands for two videos, a query without its video.
    """
    target_Q = targets_by_id(queries.video_ids, video_ids)
    ranks = {MAIN: rank_both(VectorScores(query_QD, video_BD), target_Q)}
    ranks |= normalised_ranks(query_QD, video_BD, target_Q, extras=extras)
    return evaluate_ranks(queries, video_ids, ranks, subject=subject, extras=extras)


def evaluate_scores(
    queries: Queries, video_ids: Sequence[str], score_QB: Tensor, *, subject: Subject, extras: Extras = Extras()
) -> Evaluation:
    """Judge a model by its scores of all pairs, such as those of a cross-encoder; higher is better.

    Raises:
        ValueError: NaN or inf, a shape that does not fit, a normaliser, or what ``evaluate_vectors`` refuses.
    """
    if extras.normalisers:
        raise ValueError(f"got scores and {', '.join(extras.normalisers)}; normalisers take vectors")
    if score_QB.shape != (len(queries.ids), len(video_ids)):
        raise ValueError(f"got scores {[*score_QB.shape]}, wanted {[len(queries.ids), len(video_ids)]}")
    ranks = {MAIN: rank_both(MatrixScores(score_QB), targets_by_id(queries.video_ids, video_ids))}
    return evaluate_ranks(queries, video_ids, ranks, subject=subject, extras=extras)


def normalised_ranks(query_QD: Tensor, video_BD: Tensor, target_Q: Tensor, *, extras: Extras) -> dict[str, Ranks]:
    """Ranks under each normaliser that was asked for, by its full name."""
    found = {}
    for kind in extras.normalisers:
        bank = extras.bank if kind == "qb_norm" else None
        found[full_name(kind, bank=bank)] = rank_normalised(kind, query_QD, video_BD, target_Q, bank=bank)
    return found


def evaluate_ranks(
    queries: Queries,
    video_ids: Sequence[str],
    ranks: Mapping[str, Ranks],
    *,
    subject: Subject,
    extras: Extras = Extras(),
) -> Evaluation:
    """What ``ranks`` by name come to: metrics, intervals, breakdowns, and the protocol that they stand under."""
    ranks = {name: Ranks(*(value.cpu() for value in found)) for name, found in ranks.items()}
    target_Q = targets_by_id(queries.video_ids, video_ids)
    metrics = {name: summarise_both(found) for name, found in ranks.items()}
    bootstrap: dict[str, Any] = {"num_resamples": extras.num_resamples, "seed": extras.seed}
    result: dict[str, Any] = {
        "schema": SCHEMA,
        "split": subject.split,
        "queries": subject.queries,
        "num_queries": len(queries.ids),
        "num_videos": len(video_ids),
        "num_captioned_videos": len(ranks[MAIN].video_R),
        "tie_rule": TIE_RULE,
        "normaliser": "none",
        "first_stage_k": subject.first_stage_k,
        "select_on": subject.select_on,
        "model_id": subject.model_id,
        "manifest_digest": subject.data_id,
        "chance_r1": 100 / len(video_ids),
        "protocol": describe_protocol(queries, video_ids, subject=subject),
        **metrics[MAIN],
        "intervals": {
            name: {
                "t2v": intervals(found.t2v_Q.numpy(), target_Q.numpy(), **bootstrap),
                "v2t": intervals(found.v2t_R.numpy(), found.video_R.numpy(), **bootstrap),
            }
            for name, found in ranks.items()
        },
        "bootstrap": bootstrap | {"level": LEVEL, "unit": "video"},
        "breakdown": {"caption_length": by_length(ranks[MAIN], queries.texts, target_Q, **bootstrap)},
        "num_ambiguous_queries": num_ambiguous(queries),
    }
    if extras.categories:
        result["breakdown"]["category"] = by_category(ranks[MAIN], extras.categories, video_ids, target_Q, **bootstrap)
    if FIRST_STAGE in metrics:
        result[FIRST_STAGE] = metrics[FIRST_STAGE]
    if normalised := {name: found for name, found in metrics.items() if name not in (MAIN, FIRST_STAGE)}:
        result["normalised"] = normalised
    return Evaluation(result, ranks, queries, tuple(video_ids))


def describe_protocol(queries: Queries, video_ids: Sequence[str], *, subject: Subject) -> dict[str, Any]:
    """What two results must share to be compared: the data, the candidates, the queries and the rules."""
    asked = sorted(zip(queries.ids, queries.video_ids, queries.texts, strict=True))
    return {
        "manifest_digest": subject.data_id,
        "queries": subject.queries,
        "num_queries": len(queries.ids),
        "num_videos": len(video_ids),
        "candidates_digest": _digest(sorted(video_ids)),
        "queries_digest": _digest(asked),
        "tie_rule": TIE_RULE,
        "multi_sentence": "t2v: each sentence is a query; v2t: the best rank among the sentences of the video",
    }


def num_ambiguous(queries: Queries) -> int:
    """How many queries have the very text of a query about another video: no model can tell these apart."""
    videos_of: dict[str, set[str]] = {}
    for text, video_id in zip(queries.texts, queries.video_ids, strict=True):
        videos_of.setdefault(text, set()).add(video_id)
    return sum(len(videos_of[text]) > 1 for text in queries.texts)


def read_qrels(qrels: Mapping[str, Mapping[str, int]], texts: Mapping[str, str]) -> Queries:
    """Queries out of relevance judgements ``{query: {video: 1}}``, as TREC, BEIR and MTEB have them.

    Raises:
        ValueError: a query without a text, or with none or several relevant videos: this protocol has one target each.
    """
    ids, video_ids = [], []
    for query_id, judged in qrels.items():
        relevant = [video_id for video_id, relevance in judged.items() if relevance > 0]
        if len(relevant) != 1:
            raise ValueError(f"got {len(relevant)} relevant videos for query {query_id}, wanted one: leave it out")
        if query_id not in texts:
            raise ValueError(f"got no text for query {query_id}, which has a relevant video")
        ids.append(query_id)
        video_ids.append(relevant[0])
    return Queries(ids=tuple(ids), texts=tuple(texts[query_id] for query_id in ids), video_ids=tuple(video_ids))


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, ensure_ascii=True).encode()).hexdigest()[:32]
