"""A small config of every method, under all settings that change its graph; and a batch for them."""

from typing import Any

import torch
from torch import Tensor

from fpig_core.backbone import Backbone, tokenize
from fpig_core.eercf import EercfConfig, PearsonWeights
from fpig_core.eercf_scores import ScoreWeights
from fpig_core.fpig import FPigConfig
from fpig_core.models import build_model
from fpig_core.preprocess import Preprocess
from fpig_core.t2v2t import T2V2TConfig
from fpig_core.two_tower import TwoTowerConfig

CONTEXT_LENGTH = 12
CAPTIONS = ("a red square", "a blue circle grows", "two dots", "nothing", "green things move left", "a cat")

COMMON: dict[str, Any] = {
    "backbone": Backbone(name="tiny", context_length=CONTEXT_LENGTH),
    "preprocess": Preprocess(num_frames=3, size=32),
}
METHOD_CONFIGS: dict[str, Any] = {
    "fpig": FPigConfig(**COMMON, num_selected=5),
    "fpig, cls asks": FPigConfig(**COMMON, num_selected=5, interaction_query="cls"),
    "fpig, generator stage": FPigConfig(**COMMON, num_selected=5, stage="generator"),
    "mean_pool": TwoTowerConfig(**COMMON, pooling="mean_pool"),
    "vip_cls": TwoTowerConfig(**COMMON, pooling="vip_cls"),
    "vip_mean": TwoTowerConfig(**COMMON, pooling="vip_mean"),
    "eercf": EercfConfig(**COMMON),
    "eercf, all terms, each query gates": EercfConfig(
        **COMMON,
        temporal_init="random",
        strong=ScoreWeights(tib_frame=1.0, tib_patch=0.5),
        pearson=PearsonWeights(tib_patch=0.001, off_diagonal=0.01),
        gate_by="query",
    ),
    "eercf, video score alone": EercfConfig(
        **COMMON,
        weak=ScoreWeights(video=1.0),
        rerank=ScoreWeights(video=0.5, weak_frame=0.5),
        strong_share=0.0,
        pearson=PearsonWeights(video=0.0, tib_frame=0.0),
    ),
    "t2v2t": T2V2TConfig(**COMMON, num_layers=2, fusion_width=0),
    "t2v2t, naive, masked words": T2V2TConfig(**COMMON, num_layers=1, fusion_width=48, fusion="naive", mlm_weight=0.5),
    "t2v2t, unidirectional": T2V2TConfig(**COMMON, num_layers=1, fusion_width=48, fusion="unidirectional"),
}


def build_method(name: str) -> Any:
    """The model with random weights, always the same."""
    torch.manual_seed(0)
    return build_model(METHOD_CONFIGS[name])


def make_batch(seed: int = 1) -> tuple[Tensor, Tensor]:
    """Six videos of three frames, and six different captions."""
    generator = torch.Generator().manual_seed(seed)
    frame = torch.randint(0, 256, (6, 3, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return frame, tokenize(CAPTIONS, context_length=CONTEXT_LENGTH)
