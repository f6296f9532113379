"""MSR-VTT (Xu et al., CVPR 2016), split 1k-A, with public hyper-parameters where there are any."""

import dataclasses
from collections.abc import Callable
from typing import Literal

from cluster.optim import Optim
from cluster.placement import Placement
from cluster.task import Monitor
from fpig_core.backbone import Backbone
from fpig_core.eercf import EercfConfig
from fpig_core.fpig import FPigConfig
from fpig_core.preprocess import Preprocess
from fpig_core.t2v2t import T2V2TConfig
from fpig_core.two_tower import TwoTowerConfig
from jobs.experiment import Experiment, TrainData

DATA = TrainData(train="data/msrvtt-1k/train", val="data/msrvtt-1k/val")
B32 = Backbone(name="ViT-B-32", pretrained="openai", context_length=50)
B16 = dataclasses.replace(B32, name="ViT-B-16")
PREPROCESS = Preprocess(num_frames=12, size=224)


def fpig_b32() -> Experiment:
    return Experiment(
        model=FPigConfig(backbone=B32, preprocess=PREPROCESS),
        data=DATA,
        optim=Optim(lr=2e-6),
        global_batch=160,
        # The reference's "100 epochs": 5 passes over videos × 20 captions, one caption a visit.
        epochs=100,
    )


def fpig_b16() -> Experiment:
    return dataclasses.replace(
        fpig_b32(), model=FPigConfig(backbone=B16, preprocess=PREPROCESS), optim=Optim(lr=3e-6), global_batch=88
    )


def two_tower_b32(pooling: Literal["mean_pool", "vip_cls", "vip_mean"]) -> Experiment:
    return dataclasses.replace(fpig_b32(), model=TwoTowerConfig(backbone=B32, preprocess=PREPROCESS, pooling=pooling))


TWO_TOWERS: dict[str, Callable[[], Experiment]] = {
    "mean_pool": lambda: two_tower_b32("mean_pool"),
    "vip_cls": lambda: two_tower_b32("vip_cls"),
    "vip_mean": lambda: two_tower_b32("vip_mean"),
}


def eercf_b32() -> Experiment:
    return Experiment(
        model=EercfConfig(
            backbone=dataclasses.replace(B32, context_length=32),
            preprocess=PREPROCESS,
            # The public code loads CLIP's own scale with its weights; at lr 1e-4 another start would hardly be left.
            logit_scale_init=4.60,
        ),
        data=DATA,
        optim=Optim(lr=1e-4, backbone_rate=1e-3, warmup=0.1),
        global_batch=240,
        # 5 passes over videos × 20 captions, one caption a visit.
        epochs=100,
    )


def t2v2t_b16() -> Experiment:
    passes = 5
    return Experiment(
        model=T2V2TConfig(backbone=dataclasses.replace(B16, context_length=32), preprocess=PREPROCESS),
        data=DATA,
        optim=Optim(lr=1e-5, betas=(0.9, 0.999), weight_decay=0.02, warmup=0.5 / passes, final_rate=0.1),
        global_batch=128,
        # VindLU counts passes over videos × 20 captions, as each caption is a sample of its own there.
        epochs=20 * passes,
    )


def placement(*, num_workers: int) -> Placement:
    return Placement(num_workers=num_workers, device="cuda", cpus_per_worker=2, decode_cpus=8, zero_stage=1)


def monitor() -> Monitor:
    return Monitor(log_every=10, checkpoint_every=200)
