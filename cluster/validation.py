"""The validation of an epoch: vectors of all batches, gathered and ranked at its end."""

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from cluster.collectives import gather
from fpig_core.metrics import summarise_both
from fpig_core.ranks import VectorScores, rank_both


class RankedQuery(NamedTuple):
    """A query of a validation: its video and that video's rank, and the video that came first."""

    uid: str
    caption: str
    rank: int
    first_uid: str


class Judged(NamedTuple):
    """``metrics`` by name (``t2v_r1`` …), and all queries, whoever encoded them."""

    metrics: dict[str, float]
    queries: list[RankedQuery]


class Validation:
    """What one worker keeps of the batches of a validation."""

    def __init__(self, device: torch.device):
        self.device = device
        self._clear()

    def _clear(self) -> None:
        self._text: list[Tensor] = []
        self._video: list[Tensor] = []
        self._valid: list[Tensor] = []
        self._names: list[tuple[str, str]] = []

    def add(self, vectors: dict[str, Tensor], block: dict[str, Any]) -> None:
        self._text.append(vectors["text"])
        self._video.append(vectors["video"])
        self._valid.append(torch.from_numpy(block["ok"].copy()).to(self.device))
        self._names += [
            (str(uid), str(caption))
            for uid, caption, ok in zip(block["uid"], block["caption"], block["ok"], strict=True)
            if ok
        ]

    def judge(self) -> Judged | None:
        """Rank all queries against all videos; every worker must call it, and gets the same. None without videos."""
        valid = gather(torch.cat(self._valid))
        text, video = (gather(torch.cat(parts))[valid] for parts in (self._text, self._video))
        every: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(every, self._names)
        self._clear()
        if not len(text):
            return None
        names = [name for part in every for name in part]
        ranks = rank_both(VectorScores(text, video), torch.arange(len(text), device=self.device))
        metrics = {
            f"{direction}_{name.lower().replace('@', '')}": value
            for direction, values in summarise_both(ranks).items()
            for name, value in values.items()
        }
        first = torch.cat([(rows.double() @ video.double().T).argmax(dim=1) for rows in text.split(1024)])
        queries = [
            RankedQuery(uid, caption, rank, names[place][0])
            for (uid, caption), rank, place in zip(names, ranks.t2v_Q.tolist(), first.tolist(), strict=True)
        ]
        return Judged(metrics, queries)
