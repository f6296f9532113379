"""A bundle from the files of a checkpoint, without engine or cluster."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cluster.checkpoints import CheckpointStore
from fpig_core.bundle import load_bundle, save_bundle
from fpig_core.models import build_model, model_config_to_dict
from jobs import export
from tests.methods import METHOD_CONFIGS, build_method

NUM_WORKERS = 2


def write_run(run: Path, model: torch.nn.Module, *, batch: int, ranks: range = range(NUM_WORKERS)) -> str:
    """What workers leave of ``model``: parameters by name, dealt out, beside moments that an export has no use for; and
    the first one also its buffers."""
    run.mkdir(exist_ok=True)
    (run / "experiment.json").write_text(json.dumps({"model": model_config_to_dict(model.config)}))  # pyright: ignore[reportArgumentType]
    store = CheckpointStore(str(run / "checkpoints"))
    folder = store.new_folder(batch)
    parameters = dict(model.named_parameters())
    buffers = {f"buffer/model.{name}": held for name, held in model.state_dict().items() if name not in parameters}
    for rank in ranks:
        local = run / f"{folder}-{rank}"
        local.mkdir()
        names = list(parameters)[rank::NUM_WORKERS]
        share = {f"weight/model.{name}": parameters[name].detach().contiguous() for name in names}
        moments = {f"exp_avg/model.{name}": torch.zeros(1) for name in names}
        save_file(share | moments | ({} if rank else buffers), local / f"state-{rank:05d}.safetensors")
        store.put(folder, local, rank=rank, num_workers=NUM_WORKERS, batch=batch, best_val_r1=1.0)
    return folder


@pytest.mark.parametrize("name", ["fpig", "vip_mean", "eercf", "t2v2t", "fpig, fixed ends"])
def test_the_bundle_is_the_model_that_was_saved(tmp_path, name) -> None:
    fixed_ends = dataclasses.replace(METHOD_CONFIGS["fpig"], train_bos_eos=False)
    model = build_model(fixed_ends) if name == "fpig, fixed ends" else build_method(name)
    write_run(tmp_path / "run", model, batch=7)
    report = export.main(export.Args(run=str(tmp_path / "run"), out=str(tmp_path / "out")))
    assert report.summary["batch"] == 7
    assert report.summary["model_id"] == save_bundle(tmp_path / "direct", model)
    assert load_bundle(tmp_path / "out").model_id == report.summary["model_id"]


def test_the_newest_complete_one_or_the_one_that_is_named(tmp_path) -> None:
    models = [build_method("mean_pool") for _ in range(3)]
    for number, model in enumerate(models):
        torch.nn.init.normal_(next(model.parameters()), generator=torch.Generator().manual_seed(number))
    first, *_ = [write_run(tmp_path / "run", model, batch=number) for number, model in enumerate(models[:2])]
    write_run(tmp_path / "run", models[2], batch=2, ranks=range(1))
    for name, wanted in {"": models[1], first: models[0]}.items():
        export.main(export.Args(run=str(tmp_path / "run"), out=str(tmp_path / "out"), checkpoint=name))
        assert load_bundle(tmp_path / "out").model_id == save_bundle(tmp_path / "direct", wanted)


def test_what_is_not_there_is_named(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"holds no experiment.json; give the folder of a training run"):
        export.main(export.Args(run=str(tmp_path), out=str(tmp_path / "out")))
    folder = write_run(tmp_path / "run", build_method("mean_pool"), batch=3)
    with pytest.raises(ValueError, match=f"got checkpoint='nope' .*complete ones there: {folder}"):
        export.main(export.Args(run=str(tmp_path / "run"), out=str(tmp_path / "out"), checkpoint="nope"))
