"""Pretraining on image–caption shards: every image is a video of one frame. All figures here are our choice."""

import dataclasses
from collections.abc import Callable

from cluster.optim import Optim
from cluster.placement import Placement
from cluster.task import Monitor
from fpig_core.backbone import Backbone
from fpig_core.fpig import FPigConfig
from fpig_core.preprocess import Preprocess
from fpig_core.t2v2t import T2V2TConfig
from jobs.experiment import Experiment, TrainData

B32 = Backbone(name="ViT-B-32", pretrained="openai", context_length=50)
STILL = Preprocess(num_frames=1, size=224)


def generator() -> Experiment:
    """F-Pig's generator with the reconstruction loss alone, a stage of the older public code."""
    return Experiment(
        model=FPigConfig(backbone=B32, preprocess=STILL, stage="generator"),
        data=TrainData(train="data/images/train", val="data/images/val"),
        optim=Optim(lr=1e-4),
        global_batch=1024,
        epochs=1,
    )


def t2v2t() -> Experiment:
    """T2V2T with masked language modelling beside its other losses."""
    return dataclasses.replace(
        generator(),
        model=T2V2TConfig(backbone=B32, preprocess=STILL, mlm_weight=1.0),
        optim=Optim(lr=1e-4, betas=(0.9, 0.999), weight_decay=0.02, backbone_rate=0.1, final_rate=0.01),
    )


METHODS: dict[str, Callable[[], Experiment]] = {"generator": generator, "t2v2t": t2v2t}


def placement() -> Placement:
    return Placement(num_workers=8, device="cuda", cpus_per_worker=2, decode_cpus=8, zero_stage=1)


def monitor() -> Monitor:
    return Monitor(log_every=50, checkpoint_every=1000)
