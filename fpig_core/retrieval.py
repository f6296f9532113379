"""Queries turned into what a model's first and second stage need of them."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from fpig_core.backbone import tokenize
from fpig_core.bundle import Bundle
from fpig_core.models import Reranker, method_of

QUERY_BATCH = 256


def encode_queries(bundle: Bundle, texts: Sequence[str]) -> np.ndarray:
    """Texts -> the first stage's vectors float32 [Q, D]."""
    encode = bundle.model.encode_text
    return _in_batches(bundle, texts, lambda word_QL: {"vector": encode(word_QL).float()})["vector"].numpy()


def encode_rerank_queries(bundle: Bundle, texts: Sequence[str]) -> dict[str, Tensor]:
    """Texts -> what the model's ``score`` needs of them: tensors [Q, …] by name, on the CPU."""
    return _in_batches(bundle, texts, reranker_of(bundle).encode_query)


def reranker_of(bundle: Bundle) -> Reranker:
    """The model as one that judges pairs.

    Raises:
        ValueError: it is not one.
    """
    if not isinstance(bundle.model, Reranker):
        raise ValueError(
            f"got --rerank-top and model {bundle.model_id}, a {method_of(bundle.config)}, which reranks nothing; "
            "leave --rerank-top out, or use a corpus of a model that does"
        )
    return bundle.model


def _in_batches(
    bundle: Bundle, texts: Sequence[str], encode: Callable[[Tensor], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """``encode`` of all texts, ``QUERY_BATCH`` at once, gathered on the CPU."""
    length, device = bundle.config.backbone.context_length, next(bundle.model.parameters()).device
    with torch.inference_mode():
        blocks = [
            encode(tokenize(texts[start : start + QUERY_BATCH], context_length=length).to(device))
            for start in range(0, len(texts), QUERY_BATCH)
        ]
        return {name: torch.cat([block[name].cpu() for block in blocks]) for name in blocks[0]}
