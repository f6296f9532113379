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
