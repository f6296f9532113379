"""Metrics of groups of queries: by the length of the caption, or by whatever else tells queries apart."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from fpig_core.bootstrap import intervals
from fpig_core.metrics import summarise_ranks
from fpig_core.ranks import Ranks

LENGTHS = (4, 8, 12, 16, 24)
"""Most words of each group of captions but the last."""


def length_group(text: str) -> str:
    """The group of captions that are about as long, counted in words."""
    num_words, least = len(text.split()), 0
    for most in LENGTHS:
        if num_words <= most:
            return f"{least}–{most} words"
        least = most + 1
    return f"{least} words and more"


def by_length(ranks: Ranks, texts: Sequence[str], target_Q: torch.Tensor, **bootstrap: Any) -> list[dict[str, Any]]:
    """Text to video, for each group of captions of similar length, the shortest first."""
    group_Q = np.array([length_group(text) for text in texts])
    names = sorted(set(group_Q.tolist()), key=lambda name: int(name.split("–")[0].split()[0]))
    return [
        {"group": name, **_direction("t2v", ranks.t2v_Q.numpy(), target_Q.numpy(), group_Q == name, bootstrap)}
        for name in names
    ]


def by_category(
    ranks: Ranks,
    category_of: Mapping[str, str],
    video_ids: Sequence[str],
    target_Q: torch.Tensor,
    **bootstrap: Any,
) -> list[dict[str, Any]]:
    """Both directions, for each category of videos, the largest first; videos without one are a group of their own."""
    category_B = np.array([category_of.get(video_id, "(none)") for video_id in video_ids])
    names, sizes = np.unique(category_B[ranks.video_R.numpy()], return_counts=True)
    target, video = target_Q.numpy(), ranks.video_R.numpy()
    return [
        {
            "group": str(name),
            **_direction("t2v", ranks.t2v_Q.numpy(), target, category_B[target] == name, bootstrap),
            **_direction("v2t", ranks.v2t_R.numpy(), video, category_B[video] == name, bootstrap),
        }
        for name in names[np.argsort(-sizes, kind="stable")]
    ]


def _direction(
    direction: str, rank_n: np.ndarray, video_n: np.ndarray, chosen_n: np.ndarray, bootstrap: Mapping[str, Any]
) -> dict[str, Any]:
    """Metrics of the chosen ranks, how many there are, and how sure their R@1 is."""
    rank, video = rank_n[chosen_n], video_n[chosen_n]
    return {
        direction: summarise_ranks(torch.from_numpy(rank)),
        f"{direction}_num": len(rank),
        f"{direction}_r1_interval": intervals(rank, video, **bootstrap)["R@1"],
    }
