"""The first steps of the demo in small, by the jobs themselves: videos, shards, manifests, a model."""

from pathlib import Path

import torch

from fpig_core.backbone import Backbone
from fpig_core.bundle import save_bundle
from fpig_core.fpig import FPig, FPigConfig
from fpig_core.preprocess import Preprocess
from jobs import index_shards, make_synthetic, write_shards


def make_shards(folder: Path, url: str, *, train: int = 1, val: int = 1, test: int = 1, corrupt: int = 0) -> None:
    """Synthetic videos under ``folder``, as shard sets with manifests at ``url``/train, val and test."""
    make_synthetic.main(
        make_synthetic.Args(
            out=str(folder), train=train, val=val, test=test, corrupt=corrupt, size=32, frames=6, workers=1
        )
    )
    videos, captions = str(folder / "videos"), str(folder / "captions.csv")
    write_shards.main(write_shards.Args(videos=videos, captions=captions, out=url))
    index_shards.main(index_shards.Args(root=url))


def make_model(folder: Path) -> str:
    """A tiny F-Pig with random weights -> its ``model_id``."""
    torch.manual_seed(0)
    preprocess = Preprocess(num_frames=3, size=32)
    return save_bundle(folder, FPig(FPigConfig(backbone=Backbone(name="tiny"), preprocess=preprocess, num_selected=4)))
