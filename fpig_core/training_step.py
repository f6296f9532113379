"""A training step as one forward pass: what an engine wraps, and all it has to know of a model."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import set_checkpoint_early_stop

from fpig_core.rows import Gather, Noise, Rows, identity, in_micro_batches


class TrainingStep(nn.Module):
    """Losses of this worker's rows in training mode, their vectors in evaluation mode.

    At most ``micro_batch`` rows are encoded at once (0: all), which changes memory and time and not the result.
    """

    def __init__(self, model: Any, *, micro_batch: int = 0, gather: Gather = identity, rank: int = 0) -> None:
        super().__init__()
        self.model, self.micro_batch, self.gather, self.rank = model, micro_batch, gather, rank

    def forward(
        self, frame_BF3HW: Tensor, word_BL: Tensor, valid_B: Tensor, *, noise: Noise | None = None
    ) -> dict[str, Tensor]:
        """``loss`` and its parts; or, in evaluation mode, the first stage's vectors ``text`` and ``video``."""

        def encode(cut: slice) -> Any:
            here = noise.at(cut.start) if noise else None
            return self.model.features(frame_BF3HW[cut], word_BL[cut], noise=here)

        with torch.set_grad_enabled(self.training and torch.is_grad_enabled()), set_checkpoint_early_stop(False):
            # A computation that is repeated only as far as needed never leaves its modules, and an engine that
            # shards parameters would never let go of theirs.
            features = in_micro_batches(encode, len(valid_B), size=self.micro_batch)
            if not self.training:
                return {"text": features.text_BD, "video": features.video_BD}
            rows = Rows.of(valid_B, gather=self.gather, rank=self.rank, noise=noise, micro_batch=self.micro_batch)
            return self.model.loss(features, rows)
