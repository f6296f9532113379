"""How deep in CLIP's towers a parameter stands, so that layers may learn at rates of their own."""

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from torch import nn

EMBEDDINGS = {"token_embedding", "conv1", "class_embedding", "positional_embedding", "ln_pre"}


class BackboneParameter(NamedTuple):
    """A parameter that CLIP brought along, and how many blocks of its tower stand above it.

    None above the topmost block and what follows it, all of them above the embeddings.
    """

    parameter: nn.Parameter
    blocks_above: int


def parameters_by_depth(
    tower: nn.Module, blocks: Sequence[nn.Module], *, new: Collection[str] = ()
) -> Iterator[BackboneParameter]:
    """What CLIP brought along to a tower, whose ``blocks`` are given from the lowest; ``new`` names what it did not."""
    number_of = {id(parameter): number for number, block in enumerate(blocks) for parameter in block.parameters()}
    for name, parameter in tower.named_parameters():
        part = name.split(".")[0]
        if part not in new:
            number = -1 if part in EMBEDDINGS else number_of.get(id(parameter), len(blocks) - 1)
            yield BackboneParameter(parameter, len(blocks) - 1 - number)
