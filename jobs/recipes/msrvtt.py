"""MSR-VTT (Xu et al., CVPR 2016) with the public hyper-parameters of F-Pig's reference code."""

from cluster.optim import Optim
from cluster.placement import Placement
from cluster.task import Monitor
from fpig_core.backbone import Backbone
from fpig_core.fpig import FPigConfig
from fpig_core.preprocess import Preprocess
from jobs.experiment import Experiment, TrainData

ABOUT = "F-Pig, CLIP ViT-B/32, MSR-VTT 1k-A; hyper-parameters of the reference code"


def fpig_b32() -> Experiment:
    return Experiment(
        model=FPigConfig(
            backbone=Backbone(name="ViT-B-32", pretrained="openai", context_length=50),
            preprocess=Preprocess(num_frames=12, size=224),
        ),
        data=TrainData(train="data/msrvtt-1k/train", val="data/msrvtt-1k/val"),
        optim=Optim(lr=2e-6),
        global_batch=160,
        # The reference's "100 epochs": 5 passes over videos × 20 captions, one caption a visit.
        epochs=100,
    )


def placement() -> Placement:
    return Placement(num_workers=4, device="cuda", cpus_per_worker=2, decode_cpus=8, zero_stage=1)


def monitor() -> Monitor:
    return Monitor(log_every=10, checkpoint_every=200)
