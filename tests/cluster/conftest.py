from pathlib import Path

import pytest
import torch

from fpig_core.backbone import Backbone
from fpig_core.bundle import save_bundle
from fpig_core.fpig import FPig, FPigConfig
from fpig_core.preprocess import Preprocess


@pytest.fixture(scope="session")
def database(tmp_path_factory) -> str:
    """One SQLite store for all tests: creating it runs all of MLflow's migrations."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/runs/mlflow.db"


@pytest.fixture(scope="session")
def bundle_folder(tmp_path_factory) -> Path:
    """A bundle of a tiny model with random weights."""
    torch.manual_seed(0)
    preprocess = Preprocess(num_frames=2, size=32)
    config = FPigConfig(backbone=Backbone(name="tiny", context_length=20), preprocess=preprocess, num_selected=4)
    folder = tmp_path_factory.mktemp("bundle") / "final"
    save_bundle(folder, FPig(config))
    return folder
