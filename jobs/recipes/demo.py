"""The demo: F-Pig on a small CLIP, small enough for two cores."""

from cluster.optim import Optim
from cluster.placement import Placement
from cluster.task import Monitor
from fpig_core.backbone import Backbone
from fpig_core.fpig import FPigConfig
from fpig_core.preprocess import Preprocess
from jobs.experiment import Experiment, TrainData

ABOUT = "F-Pig on a tiny CLIP and synthetic videos; runs on a laptop"


def fpig_tiny() -> Experiment:
    return Experiment(
        model=FPigConfig(
            backbone=Backbone(name="tiny", pretrained="runs/demo/clip/open_clip.safetensors", context_length=50),
            preprocess=Preprocess(num_frames=6, size=32),
            # From the class embedding the added tokens start far better, and a soft interaction suits a small width;
            # docs/log.md has the measurements.
            added_cls_init="cls",
            interaction_temperature=5.0,
        ),
        data=TrainData(train="runs/demo/shards/train", val="runs/demo/shards/val"),
        optim=Optim(lr=6e-4),
        global_batch=64,
        epochs=12,
    )


def placement() -> Placement:
    return Placement(num_workers=2, device="cpu", storage="runs", zero_stage=1)


def monitor() -> Monitor:
    return Monitor(log_every=5, checkpoint_every=30)
