"""The model's place in an embedding: one actor, one device, frames in and vectors out."""

import numpy as np
import torch

from fpig_core.bundle import load_bundle
from pipelines.embed_stages import Rows
from pipelines.parts import CorpusSpec
from pipelines.places import local_bundle

FEATURE_OF = {"vector": "fused_BD", "vector_unfused": "unfused_BD", "pseudo_query": "pseudo_query_BD"}


class EncodeVideos:
    """Frames -> vectors, on one device, always with the same batch shape (one compilation, one memory plan)."""

    def __init__(self, model_url: str, spec: CorpusSpec, batch_size: int, use_gpu: bool) -> None:
        self._device = torch.device("cuda" if use_gpu else "cpu")
        with local_bundle(model_url) as folder:
            bundle = load_bundle(folder, device=str(self._device))
        if bundle.model_id != spec.model_id:
            raise ValueError(f"the model at {model_url} became {bundle.model_id}, wanted {spec.model_id}; start again")
        self._model, self._columns = bundle.model, spec.vector_columns
        self._is_half = spec.precision == "bf16"
        preprocess = bundle.config.preprocess
        shape = (batch_size, preprocess.num_frames, 3, preprocess.size, preprocess.size)
        self._frame_BF3HW = torch.zeros(shape, dtype=torch.uint8, pin_memory=use_gpu)

    def __call__(self, batch: Rows) -> Rows:
        """``frames`` replaced by the vector columns, float32 [rows, D]; a vector that is not finite is rejected."""
        num_rows = len(batch["row"])
        self._frame_BF3HW.numpy()[:num_rows] = batch["frames"]
        with torch.inference_mode(), torch.autocast(self._device.type, torch.bfloat16, enabled=self._is_half):
            features = self._model.encode_video(self._frame_BF3HW.to(self._device))
        vectors = {name: getattr(features, FEATURE_OF[name])[:num_rows].float().cpu().numpy() for name in self._columns}
        finite = np.logical_and.reduce([np.isfinite(vector).all(axis=1) for vector in vectors.values()])
        reason = np.where((batch["reason"] == "") & ~finite, "not_finite", batch["reason"])
        return {"row": batch["row"], "reason": reason, "detail": batch["detail"], **vectors}
