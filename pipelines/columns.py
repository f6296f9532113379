"""What a corpus can keep of each video: the columns that a model offers, and which of them are chosen."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn

from fpig_core.models import Reranker, Retriever
from fpig_core.preprocess import Preprocess

VECTOR = "vector"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Column:
    """One value of ``shape`` a video. Floats are stored in the dtype of the corpus, integers as int32."""

    name: str
    shape: tuple[int, ...]
    kind: Literal["float", "int"] = "float"

    @property
    def size(self) -> int:
        """Numbers a video."""
        return math.prod(self.shape)

    def __str__(self) -> str:
        return f"{self.name} {self.kind}[{','.join(map(str, self.shape))}]"


def offered_columns(model: Retriever, preprocess: Preprocess) -> tuple[Column, ...]:
    """All columns that ``model`` gives, ``vector`` first. ``model`` is left without weights: on the meta device.

    There it runs once, on one video that is not there either, so that shapes cost neither time nor memory.
    """
    assert isinstance(model, nn.Module)
    shape = (1, preprocess.num_frames, 3, preprocess.size, preprocess.size)
    with torch.inference_mode(), torch.device("meta"):
        given = model.columns(model.to("meta").encode_video(torch.zeros(shape, dtype=torch.uint8)))
    found = [
        Column(name=name, shape=tuple(x.shape[1:]), kind="float" if x.is_floating_point() else "int")
        for name, x in given.items()
    ]
    return tuple(sorted(found, key=lambda column: column.name != VECTOR))


def choose_columns(
    model: Retriever, preprocess: Preprocess, *, extra: Sequence[str], for_reranking: bool
) -> tuple[Column, ...]:
    """``vector``, the ``extra`` columns and, ``for_reranking``, those that a Reranker needs, in the model's order.

    ``model`` is left on the meta device.

    Raises:
        ValueError: the model does not offer a column.
    """
    needed = model.rerank_columns if for_reranking and isinstance(model, Reranker) else ()
    offered = offered_columns(model, preprocess)
    names = [column.name for column in offered]
    if unknown := [name for name in (*extra, *needed) if name not in names]:
        raise ValueError(f"got the column {unknown[0]!r}; this model offers {', '.join(names)}")
    return tuple(column for column in offered if column.name in (VECTOR, *extra, *needed))
