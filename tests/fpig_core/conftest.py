"""Small models with random weights, and a batch for them."""

import threading
from typing import NamedTuple

import pytest
import torch
from open_clip.model import CLIP
from torch import Tensor

from fpig_core.backbone import Backbone, build_clip, tokenize
from fpig_core.fpig import FPig, FPigConfig
from fpig_core.preprocess import Preprocess

CONTEXT_LENGTH = 12


class Batch(NamedTuple):
    frame: Tensor
    word: Tensor


class FakeGather:
    """Workers are threads here: they share one autograd graph, and meet in ``gather`` as processes in a collective.

    All put in their part, and each gets the whole, ordered by rank.
    """

    def __init__(self, num_workers: int) -> None:
        self.parts = [torch.empty(0)] * num_workers
        self.barrier = threading.Barrier(num_workers, timeout=20)

    def __call__(self, rank):
        def gather(x_B):
            self.parts[rank] = x_B
            self.barrier.wait()
            x_G = torch.cat(self.parts)
            self.barrier.wait()
            return x_G

        return gather


@pytest.fixture
def fake_gather() -> type[FakeGather]:
    return FakeGather


@pytest.fixture
def tiny_config() -> FPigConfig:
    return FPigConfig(
        backbone=Backbone(name="tiny", context_length=CONTEXT_LENGTH),
        preprocess=Preprocess(num_frames=3, size=32),
        num_selected=5,
    )


@pytest.fixture
def tiny_clip() -> CLIP:
    torch.manual_seed(0)
    return build_clip(Backbone(name="tiny"))


@pytest.fixture
def tiny_fpig(tiny_config: FPigConfig) -> FPig:
    torch.manual_seed(0)
    return FPig(tiny_config).eval()


@pytest.fixture
def tiny_batch() -> Batch:
    """Six videos of three frames, and six different captions."""
    generator = torch.Generator().manual_seed(1)
    frame = torch.randint(0, 256, (6, 3, 3, 32, 32), dtype=torch.uint8, generator=generator)
    captions = ["a red square", "a blue circle grows", "two dots", "nothing", "green things move left", "a cat"]
    return Batch(frame, tokenize(captions, context_length=CONTEXT_LENGTH))
