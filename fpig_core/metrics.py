"""What is said about ranks: R@1, R@5, R@10, their sum, and the median and mean rank."""

import torch
from torch import Tensor

from fpig_core.ranks import MAX_SCORES, Ranks, VectorScores, rank_both

RECALL_AT = (1, 5, 10)
DIRECTIONS = ("t2v", "v2t")

Metrics = dict[str, dict[str, float]]
"""``{"t2v": {"R@1": …, "R@5": …, "R@10": …, "MdR": …, "MnR": …, "SumR": …}, "v2t": …}``."""


def summarise_ranks(rank_Q: Tensor) -> dict[str, float]:
    """R@1, R@5, R@10 in percent, their sum SumR, and the median and mean rank MdR, MnR.

    Raises:
        ValueError: no rank at all.
    """
    if not len(rank_Q):
        raise ValueError("got no queries, wanted at least one")
    rank = rank_Q.double()
    recall = {f"R@{k}": float((rank <= k).double().mean()) * 100 for k in RECALL_AT}
    ordered, last = rank.sort().values, len(rank) - 1
    return recall | {
        # Tensor.median takes the lower of two middle ranks; the usual median is their mean.
        "MdR": float(ordered[last // 2] + ordered[(last + 1) // 2]) / 2,
        "MnR": float(rank.mean()),
        "SumR": sum(recall.values()),
    }


def summarise_both(ranks: Ranks) -> Metrics:
    """Metrics of both directions."""
    return {"t2v": summarise_ranks(ranks.t2v_Q), "v2t": summarise_ranks(ranks.v2t_R)}


def retrieval_metrics(query_QD: Tensor, video_BD: Tensor, target_Q: Tensor, *, max_scores: int = MAX_SCORES) -> Metrics:
    """Metrics of both directions by inner product.

    ``target_Q`` is the column of ``video_BD`` that each query describes; several queries may share one
    (multi-sentence): every one of them is a query, and a video takes the best rank among its own. Products are taken
    in float64, in blocks of at most ``max_scores``.

    Raises:
        ValueError: vectors with NaN or inf, targets out of range, or no queries.
    """
    return summarise_both(rank_both(VectorScores(query_QD, video_BD), target_Q, max_scores=max_scores))


def recall_curve(rank_Q: Tensor, at: list[int]) -> list[float]:
    """R@K in percent for each K of ``at``."""
    ordered = rank_Q.sort().values
    found = torch.searchsorted(ordered, torch.tensor(at, dtype=ordered.dtype, device=ordered.device), right=True)
    return (found.double() / len(ordered) * 100).tolist()
