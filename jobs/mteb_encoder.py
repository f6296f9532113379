"""A model bundle as an encoder for MTEB, the Massive Text Embedding Benchmark, whose tasks also hold video.

Written after the source of MTEB 2 (``mteb/models/models_protocols.py``: ``EncoderProtocol``; video arrives as a
torchcodec decoder in the column ``video``, and the encoder sets the loader's ``collate_fn``). MTEB is no dependency:
tests use a data loader of the same shape and a decoder made up for them; ``docs/evaluation.md`` tells of a real run.

>>> meta = mteb.models.ModelMeta.create_empty({"name": "our/fpig", "revision": "1", "modalities": ["text", "video"]})
>>> encoder = MtebEncoder("runs/demo/train/model", model_meta=meta)
>>> mteb.evaluate(encoder, tasks=mteb.get_tasks(tasks=["..."]))

MTEB ranks by its own rules. To judge a model from elsewhere by ours see ``fpig_core.evaluate_encoder``.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from fpig_core.backbone import tokenize
from fpig_core.bundle import load_bundle
from fpig_core.frames import uniform_indices
from fpig_core.preprocess import Preprocess
from pipelines.columns import VECTOR
from pipelines.resize import to_model_size

TEXT, VIDEO = "text", "video"


class Decoder(Protocol):
    """What is used of ``torchcodec.decoders.VideoDecoder``: a length, and frames uint8 [F, 3, H, W] by number."""

    def __len__(self) -> int: ...

    def get_frames_at(self, indices: list[int], /) -> Any: ...


class MtebEncoder:
    """Vectors whose inner products are the scores. ``model_meta``: an ``mteb.ModelMeta``, handed through unread."""

    def __init__(self, bundle: str | Path, *, model_meta: Any, device: str = "cpu") -> None:
        self._bundle, self._model_meta, self._device = load_bundle(bundle, device=device), model_meta, device

    @property
    def mteb_model_meta(self) -> Any:
        return self._model_meta

    def encode(
        self,
        inputs: DataLoader,
        *,
        task_metadata: Any = None,
        hf_split: str = "",
        hf_subset: str = "",
        prompt_type: Any = None,
        **kwargs: Any,
    ) -> np.ndarray:
        """Vectors float32 [rows, D] of the texts or videos that the loader holds; what else is told changes nothing.

        Raises:
            ValueError: rows with neither, or with both: the model has no vector of a text and a video together.
        """
        inputs.collate_fn = self.collate
        blocks = [self._encode(batch) for batch in inputs]
        if not blocks:
            raise ValueError("got an empty data loader, wanted texts or videos")
        return np.concatenate(blocks)

    def similarity(self, embeddings1: np.ndarray | Tensor, embeddings2: np.ndarray | Tensor) -> Tensor:
        """Inner products [n, m] of n and m vectors."""
        one, two = (torch.atleast_2d(torch.as_tensor(x)) for x in (embeddings1, embeddings2))
        return one @ two.T

    def similarity_pairwise(self, embeddings1: np.ndarray | Tensor, embeddings2: np.ndarray | Tensor) -> Tensor:
        """Inner products [n] of n pairs."""
        one, two = (torch.atleast_2d(torch.as_tensor(x)) for x in (embeddings1, embeddings2))
        return (one * two).sum(dim=1)

    def collate(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Rows of a data set -> ``text``: a list, or ``video``: frames uint8 [B, F, 3, H, W] as the model sees them."""
        kinds = {kind for row in rows for kind in (TEXT, VIDEO) if row.get(kind) is not None}
        if len(kinds) != 1:
            told = " and ".join(sorted(kinds)) or "neither text nor video"
            raise ValueError(f"got rows with {told}, wanted one of text and video")
        if TEXT in kinds:
            return {TEXT: [row[TEXT] for row in rows]}
        preprocess = self._bundle.config.preprocess
        return {VIDEO: torch.stack([read_frames(row[VIDEO], preprocess) for row in rows])}

    @torch.inference_mode()
    def _encode(self, batch: Mapping[str, Any]) -> np.ndarray:
        model = self._bundle.model
        if TEXT in batch:
            words = tokenize(batch[TEXT], context_length=self._bundle.config.backbone.context_length)
            return model.encode_text(words.to(self._device)).float().cpu().numpy()
        video = model.encode_video(batch[VIDEO].to(self._device))
        return model.columns(video)[VECTOR].float().cpu().numpy()


def read_frames(decoder: Decoder, preprocess: Preprocess) -> Tensor:
    """The frames that the model sees of a video, uint8 [F, 3, H, W], sampled and resized as in an embedding."""
    places = uniform_indices(len(decoder), preprocess.num_frames).tolist()
    frame_F3HW = np.asarray(decoder.get_frames_at(places).data)
    pictures = [to_model_size(Image.fromarray(frame.transpose(1, 2, 0)), preprocess) for frame in frame_F3HW]
    return torch.from_numpy(np.stack(pictures))
