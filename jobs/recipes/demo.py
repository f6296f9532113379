"""The demo: every method on a small CLIP and synthetic videos, small enough for two cores."""

import dataclasses
from collections.abc import Callable
from typing import Any

from cluster.optim import Optim
from cluster.placement import Placement
from cluster.task import Monitor
from fpig_core.backbone import Backbone
from fpig_core.eercf import EercfConfig
from fpig_core.fpig import FPigConfig
from fpig_core.models import ModelConfig
from fpig_core.preprocess import Preprocess
from fpig_core.t2v2t import T2V2TConfig
from fpig_core.two_tower import TwoTowerConfig
from jobs.experiment import Experiment, TrainData

ABOUT = "every method on a tiny CLIP and synthetic videos; runs on a laptop"

COMMON: dict[str, Any] = {
    "backbone": Backbone(name="tiny", pretrained="runs/demo/clip/open_clip.safetensors", context_length=50),
    "preprocess": Preprocess(num_frames=6, size=32),
}


def experiment(model: ModelConfig, *, optim: Optim = Optim(lr=6e-4)) -> Experiment:
    return Experiment(
        model=model,
        data=TrainData(train="runs/demo/shards/train", val="runs/demo/shards/val"),
        optim=optim,
        global_batch=64,
        epochs=12,
    )


def fpig() -> Experiment:
    # From the class embedding the added tokens start far better, and a soft interaction suits a small width;
    # docs/log.md has the measurements.
    return experiment(FPigConfig(**COMMON, added_cls_init="cls", interaction_temperature=5.0))


def fpig_cls() -> Experiment:
    """CLS asks instead of the pseudo-query, which then has nothing to do."""
    plain = fpig()
    return dataclasses.replace(plain, model=dataclasses.replace(plain.model, interaction_query="cls"))


def mean_pool() -> Experiment:
    return experiment(TwoTowerConfig(**COMMON, pooling="mean_pool"))


def vip_cls() -> Experiment:
    return experiment(TwoTowerConfig(**COMMON, pooling="vip_cls", added_cls_init="cls"))


def vip_mean() -> Experiment:
    return experiment(TwoTowerConfig(**COMMON, pooling="vip_mean", added_cls_init="cls"))


def eercf() -> Experiment:
    return experiment(EercfConfig(**COMMON))


def t2v2t() -> Experiment:
    """Its fusion learns too little from 600 videos alone: start it from the bundle of ``t2v2t_images``."""
    # The captions of this world are so alike that the hardest negatives teach a young fusion nothing; docs/log.md.
    model = T2V2TConfig(**COMMON, fusion_width=96, num_layers=2, num_heads=4, negative_hardness=0.3)
    return experiment(model, optim=Optim(lr=1e-3, backbone_rate=0.2, weight_decay=0.02, warmup=0.05))


def on_stills(plain: Experiment, *, epochs: int, **settings: Any) -> Experiment:
    """An experiment on captioned stills, videos of one frame."""
    one_frame = Preprocess(num_frames=1, size=32)
    return dataclasses.replace(
        plain,
        model=dataclasses.replace(plain.model, preprocess=one_frame, **settings),
        data=TrainData(train="runs/demo/still_shards/train", val="runs/demo/still_shards/val"),
        epochs=epochs,
    )


def generator() -> Experiment:
    """F-Pig's generator alone."""
    return on_stills(fpig(), epochs=3, stage="generator")


def t2v2t_images() -> Experiment:
    """T2V2T before it meets videos; masked words would need far more stills than these."""
    return on_stills(t2v2t(), epochs=3, negative_hardness=0.0)


METHODS: dict[str, Callable[[], Experiment]] = {
    function.__name__: function
    for function in (fpig, fpig_cls, mean_pool, vip_cls, vip_mean, eercf, t2v2t, generator, t2v2t_images)
}


def placement() -> Placement:
    return Placement(num_workers=2, device="cpu", storage="runs", zero_stage=1)


def monitor() -> Monitor:
    return Monitor(log_every=5, checkpoint_every=30)
