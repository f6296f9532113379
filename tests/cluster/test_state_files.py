"""Saved states read without an engine."""

import torch
from safetensors.torch import save_file

from cluster.state_files import read_weights


def test_the_average_takes_the_place_of_weights_that_have_one(tmp_path) -> None:
    """Frozen parameters have none; a value and its average may lie in different files."""
    shares = [
        {"ema/model.a": 10.0, "weight/model.b": 2.0, "exp_avg/model.a": 5.0},
        {"weight/model.a": 1.0, "ema/model.b": 20.0, "weight/model.frozen": 3.0},
    ]
    for rank, share in enumerate(shares):
        values = {key: torch.tensor([value]) for key, value in share.items()}
        save_file(values, tmp_path / f"state-{rank:05d}.safetensors")
    got = {name: value.item() for name, value in read_weights(tmp_path).items()}
    assert got == {"a": 10.0, "b": 20.0, "frozen": 3.0}
