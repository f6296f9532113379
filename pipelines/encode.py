"""The model's place in an embedding: one actor, one device, frames in and vectors out."""

import numpy as np
import torch
from torch import Tensor

from fpig_core.bundle import load_bundle
from fpig_core.speed import compile_blocks
from pipelines.columns import Column
from pipelines.embed_stages import PADDING, Batch
from pipelines.parts import CorpusSpec
from pipelines.places import local_bundle


class EncodeVideos:
    """Frames -> vectors, on one device, always with the same batch shape (one compilation, one memory plan)."""

    def __init__(
        self, model_url: str, spec: CorpusSpec, batch_size: int, use_gpu: bool, is_compiled: bool = False
    ) -> None:
        self._device = torch.device("cuda" if use_gpu else "cpu")
        with local_bundle(model_url) as folder:
            bundle = load_bundle(folder, device=str(self._device))
        if bundle.model_id != spec.model_id:
            raise ValueError(f"the model at {model_url} became {bundle.model_id}, wanted {spec.model_id}; start again")
        self._model, self._spec = bundle.model, spec
        if is_compiled:
            compile_blocks(self._model)
        self._is_half = spec.precision == "bf16"
        preprocess = bundle.config.preprocess
        shape = (batch_size, preprocess.num_frames, 3, preprocess.size, preprocess.size)
        self._frame_BF3HW = torch.zeros(shape, dtype=torch.uint8, pin_memory=use_gpu)
        if is_compiled or use_gpu:
            self._encode()  # what is compiled and tuned at the first call is ready when the first batch comes

    def __call__(self, batch: Batch) -> Batch:
        """``frames`` replaced by the columns of the corpus, [rows, *shape] as they are given; ``rows_after`` padded.

        A video of which a number is not finite, or too large for the corpus, is rejected.
        """
        num_rows = len(batch["row"])
        assert num_rows == len(self._frame_BF3HW), f"got a batch of {num_rows} rows"
        # The results of the call before were fetched, so that the device is done with these pages.
        self._frame_BF3HW.numpy()[:] = batch["frames"]
        values = self._encode()
        finite = np.logical_and.reduce([np.isfinite(x).reshape(num_rows, -1).all(axis=1) for x in values.values()])
        reason = np.where((batch["reason"] == "") & ~finite, "not_finite", batch["reason"])
        done = {"row": batch["row"], "reason": reason, "detail": batch["detail"], **values}
        return _pad(done, int(batch["rows_after"][0]))

    def _encode(self) -> Batch:
        with torch.inference_mode(), torch.autocast(self._device.type, torch.bfloat16, enabled=self._is_half):
            frame_BF3HW = self._frame_BF3HW.to(self._device, non_blocking=True)
            given = self._model.columns(self._model.encode_video(frame_BF3HW))
        return {column.name: self._given(given[column.name], column) for column in self._spec.columns}

    def _given(self, x: Tensor, column: Column) -> np.ndarray:
        return x.to(getattr(torch, self._spec.given(column).name)).cpu().numpy()


def _pad(batch: Batch, num_rows: int) -> Batch:
    """The batch and ``num_rows`` rows of padding after it."""
    if not num_rows:
        return batch
    fill = {"row": PADDING, "reason": "", "detail": ""}
    return {
        name: np.concatenate([value, np.full((num_rows, *value.shape[1:]), fill.get(name, 0), value.dtype)])
        for name, value in batch.items()
    }
