"""What a training run leaves on storage, for tests to hold against each other."""

from pathlib import Path

import torch
from safetensors.torch import load_file

from cluster.checkpoints import CheckpointStore
from cluster.state_files import state_files


def last_state(run: Path) -> dict[str, torch.Tensor]:
    """The weights and moments after the run's last step, by name."""
    newest = CheckpointStore(str(run / "checkpoints")).newest_complete()
    assert newest
    files = state_files(run / "checkpoints" / newest.folder)
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def require_same_state(run: Path, other: Path) -> None:
    """Both runs ended with the same weights and moments, but for rounding."""
    first, second = ({name: _seen(name, tensor) for name, tensor in last_state(each).items()} for each in (run, other))
    torch.testing.assert_close(second, first, rtol=1e-4, atol=1e-4)


def _seen(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Without the biases of keys: a softmax does not see them, so Adam makes steps of their gradients' rounding."""
    if name.endswith(("in_proj_bias", "qkv.bias")):
        query, _, value = tensor.chunk(3)
        return torch.cat([query, value])
    return tensor[:0] if name.endswith("key.bias") else tensor
