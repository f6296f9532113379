"""The MLflow model of a bundle: a script MLflow runs when the model is loaded ("models from code"; no pickle).

It must stand alone beside ``fpig_core``, which is stored with the model.
"""

from typing import Any

import numpy as np
import torch
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel

from fpig_core.backbone import tokenize
from fpig_core.bundle import load_bundle

BATCH = 256


class RetrievalModel(PythonModel):
    """Vectors of queries or of videos.

    ``params={"encode": "text"}`` (the default): a list of query strings, or a table whose column ``query``, or only
    column, holds them -> float32 [Q, D]. ``params={"encode": "video"}``: uint8 frames [B, F, 3, H, W], preprocessed as
    the bundle says -> float32 [B, D].
    """

    def load_context(self, context: Any) -> None:
        self._bundle = load_bundle(context.artifacts["bundle"])

    def predict(self, context: Any, model_input: Any, params: dict[str, Any] | None = None) -> np.ndarray:
        entrance = (params or {}).get("encode", "text")
        if entrance == "text":
            return self._encode(queries_of(model_input), self._encode_text)
        if entrance == "video":
            return self._encode(np.asarray(model_input, dtype=np.uint8), self._encode_video)
        raise ValueError(f"got encode={entrance!r}, wanted 'text' or 'video'")

    def _encode(self, items: Any, encode: Any) -> np.ndarray:
        with torch.inference_mode():
            vectors = [encode(items[start : start + BATCH]) for start in range(0, len(items), BATCH)]
        return torch.cat(vectors).float().numpy()

    def _encode_text(self, queries: list[str]) -> torch.Tensor:
        context_length = self._bundle.config.backbone.context_length
        return self._bundle.model.encode_text(tokenize(queries, context_length=context_length))

    def _encode_video(self, frame_BF3HW: np.ndarray) -> torch.Tensor:
        model = self._bundle.model
        return model.columns(model.encode_video(torch.from_numpy(frame_BF3HW)))["vector"]


def queries_of(model_input: Any) -> list[str]:
    """Query strings of a table, a sequence or a single string."""
    if isinstance(model_input, str):
        return [model_input]
    if hasattr(model_input, "columns"):
        names = list(model_input.columns)
        if "query" not in names and len(names) != 1:
            raise ValueError(f"got columns {names}; name the column of queries 'query'")
        model_input = model_input["query" if "query" in names else names[0]]
    return [str(query) for query in model_input]


# MLflow runs this file in a module of its own and takes the object named here.
set_model(RetrievalModel())
