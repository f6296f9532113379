"""The methods, each with its hyper-parameters on MSR-VTT 1k-A, where they were published."""

from collections.abc import Mapping
from typing import NamedTuple

from fpig_core.eercf import EercfConfig
from fpig_core.fpig import FPigConfig
from fpig_core.models import ModelConfig
from fpig_core.t2v2t import T2V2TConfig
from fpig_core.two_tower import TwoTowerConfig
from jobs.recipes.marks import Value, Values, inferred, ours, published

FPIG = "F-Pig, public code"
CLIP4CLIP = "CLIP4Clip, README and main_task_retrieval.py (github.com/ArrowLuo/CLIP4Clip)"
EERCF = "EERCF, scripts/run_fineclip_msrvtt_vit32.sh and main_eercf.py (github.com/adxcreative/EERCF)"
T2V2T = "T2V2T, the paper's poster"
VINDLU = "VindLU, configs and README (github.com/klauscc/VindLU)"
CLIP_VIP = "CLIP-ViP, src/configs, on 8 GPUs (github.com/microsoft/XPretrain)"

CAPTIONS_OF_MSRVTT = 20
PASSES = 5
"""Passes over video–caption pairs, in the code of CLIP4Clip and EERCF, and in F-Pig's by another name."""

_OPENAI = {"model.backbone.pretrained": "openai"}
_CLIP_OPTIM = {"optim.betas": (0.9, 0.98), "optim.weight_decay": 0.2, "optim.clip_norm": 1.0, "seed": 42}
_SELECT = ours("the reference selects its checkpoint by test R@1", {"data.select_on": "val"})


def as_fpig(values: Values) -> dict[str, Value]:
    """The values of F-Pig for a baseline beside it."""
    return {
        path: Value(value.value, "ours", "that of F-Pig, so that nothing else differs")
        for path, value in values.items()
    }


class Family(NamedTuple):
    """A method on one tower: models by name, the default first, and the values they share."""

    about: str
    models: Mapping[str, ModelConfig]
    values: dict[str, Value]
    num_workers: int


_FPIG_B32 = _SELECT | published(
    FPIG,
    {
        **_OPENAI,
        **_CLIP_OPTIM,
        "model.backbone.name": "ViT-B-32",
        "model.backbone.context_length": 50,
        "model.preprocess.num_frames": 12,
        "model.preprocess.resize_mode": "squash",
        "optim.lr": 2e-6,
        "optim.warmup": 0.01,
        "global_batch": 160,
        # The code's "100 epochs", one caption a visit.
        "epochs": PASSES * CAPTIONS_OF_MSRVTT,
    },
)

FAMILIES: dict[str, Family] = {
    "fpig-b32": Family("F-Pig, CLIP ViT-B/32", {"fpig": FPigConfig()}, _FPIG_B32, 4),
    "fpig-b16": Family(
        "F-Pig, CLIP ViT-B/16",
        {"fpig": FPigConfig()},
        _FPIG_B32 | published(FPIG, {"model.backbone.name": "ViT-B-16", "optim.lr": 3e-6, "global_batch": 88}),
        8,
    ),
    "two-tower-b32": Family(
        "baselines beside F-Pig, on the same towers and schedule",
        {
            "mean_pool": TwoTowerConfig(pooling="mean_pool"),
            "vip_cls": TwoTowerConfig(pooling="vip_cls"),
            "vip_mean": TwoTowerConfig(pooling="vip_mean"),
        },
        as_fpig(_FPIG_B32),
        4,
    ),
    "clip4clip-b32": Family(
        "CLIP4Clip's mean pooling, CLIP ViT-B/32, on its own schedule",
        {"mean_pool": TwoTowerConfig(pooling="mean_pool")},
        ours("it loads CLIP's own scale, ln 100", {"model.logit_scale_init": 4.60})
        | ours("CLIP4Clip reports the best epoch on the test set", {"data.select_on": "val"})
        | published(
            CLIP4CLIP,
            {
                **_OPENAI,
                **_CLIP_OPTIM,
                "model.backbone.name": "ViT-B-32",
                "model.backbone.context_length": 32,
                "model.preprocess.num_frames": 12,
                "model.preprocess.resize_mode": "shortest",
                "optim.lr": 1e-4,
                "optim.backbone_rate": 1e-3,
                "optim.warmup": 0.1,
                "global_batch": 128,
                "epochs": PASSES * CAPTIONS_OF_MSRVTT,
            },
        ),
        4,
    ),
    "eercf-b32": Family(
        "EERCF, CLIP ViT-B/32",
        {"eercf": EercfConfig()},
        # At lr 1e-4 another start would hardly be left.
        ours("the code loads CLIP's own scale, ln 100", {"model.logit_scale_init": 4.60})
        | ours("the code validates on the test set", {"data.select_on": "val"})
        | ours("as F-Pig, for one preprocessing in comparisons", {"model.preprocess.resize_mode": "squash"})
        | published(
            EERCF,
            {
                **_OPENAI,
                **_CLIP_OPTIM,
                "model.backbone.name": "ViT-B-32",
                "model.backbone.context_length": 32,
                "model.preprocess.num_frames": 12,
                "optim.lr": 1e-4,
                "optim.backbone_rate": 1e-3,
                "optim.warmup": 0.1,
                "global_batch": 240,
                "epochs": PASSES * CAPTIONS_OF_MSRVTT,
            },
        ),
        4,
    ),
    "t2v2t-b16": Family(
        "T2V2T, CLIP ViT-B/16",
        {"t2v2t": T2V2TConfig()},
        ours("the paper's towers are VindLU's, pretrained on 5M pairs", {"model.backbone.name": "ViT-B-16"} | _OPENAI)
        | ours("VindLU keeps the last epoch on MSR-VTT", {"data.select_on": "val"})
        | ours("as F-Pig, for one preprocessing in comparisons", {"model.preprocess.resize_mode": "squash"})
        | ours("VindLU clips no gradients", {"optim.clip_norm": 1.0})
        | inferred(VINDLU, {"model.backbone.context_length": 32, "global_batch": 128, "seed": 42})
        | published(
            T2V2T,
            {
                "model.preprocess.num_frames": 12,
                "optim.lr": 1e-5,
                "optim.final_rate": 0.1,
                "optim.betas": (0.9, 0.999),
                "optim.weight_decay": 0.02,
                # Half a pass.
                "optim.warmup": 0.5 / PASSES,
                # Each caption is a sample of its own in VindLU's passes.
                "epochs": PASSES * CAPTIONS_OF_MSRVTT,
            },
        ),
        8,
    ),
}
