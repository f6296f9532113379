"""The files of a saved state, for readers that need no engine."""

from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from cluster.ema import EMA

WEIGHT, BUFFER = "weight", "buffer"
_STEP_MODULE = "model."
"""What is trained is a ``TrainingStep``, which holds the model under this name."""


def state_files(folder: Path) -> list[Path]:
    """The shares of all workers; a value is under ``KIND/NAME`` in one of them."""
    return sorted(folder.glob("state-*.safetensors"))


def read_weights(folder: Path) -> dict[str, Tensor]:
    """A saved state as the ``state_dict`` of its model, the average of the weights in their place if there is one."""
    weights = {}
    for kind in (WEIGHT, BUFFER, EMA):
        prefix = f"{kind}/{_STEP_MODULE}"
        for path in state_files(folder):
            with safe_open(path, framework="pt") as file:
                names = [key for key in file.keys() if key.startswith(prefix)]  # noqa: SIM118  # it is no dictionary
                weights |= {name.removeprefix(prefix): file.get_tensor(name) for name in names}
    return weights
