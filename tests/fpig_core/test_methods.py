"""What holds for every method, under all settings that change its graph."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from fpig_core.bundle import load_bundle, save_bundle
from fpig_core.models import (
    METHODS,
    Reranker,
    Retriever,
    Trainable,
    method_of,
    model_config_from_dict,
    model_config_to_dict,
)
from fpig_core.rows import Noise
from fpig_core.training_step import TrainingStep
from tests.methods import METHOD_CONFIGS, build_method

NOISE = Noise(seed=3)
every_method = pytest.mark.parametrize("name", METHOD_CONFIGS)


def losses_and_gradients(model, loss) -> tuple[float, dict[str, torch.Tensor]]:
    learning = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    return loss.item(), dict(zip(learning, torch.autograd.grad(loss, list(learning.values())), strict=True))


def test_every_registered_method_is_checked_here():
    assert {method_of(config) for config in METHOD_CONFIGS.values()} == set(METHODS)


@every_method
def test_all_that_may_learn_does(name, tiny_batch):
    model = build_method(name)
    loss = TrainingStep(model)(*tiny_batch, torch.ones(6, dtype=torch.bool), noise=NOISE)["loss"]
    value, gradients = losses_and_gradients(model, loss)
    assert value > 0
    # The bias of a softmax's keys shifts all its logits alike.
    still = [key for key, gradient in gradients.items() if not gradient.any() and not key.endswith("key.bias")]
    assert not still


@every_method
@pytest.mark.parametrize("micro_batch", [1, 4])
def test_micro_batches_change_neither_loss_nor_gradients(name, micro_batch, tiny_batch):
    model, valid = build_method(name).double(), torch.tensor([True] * 5 + [False])
    whole = TrainingStep(model)(*tiny_batch, valid, noise=NOISE)["loss"]
    cut = TrainingStep(model, micro_batch=micro_batch)(*tiny_batch, valid, noise=NOISE)["loss"]
    (wanted_loss, wanted), (got_loss, got) = (losses_and_gradients(model, loss) for loss in (whole, cut))
    assert got_loss == pytest.approx(wanted_loss, rel=1e-6)
    for key, gradient in wanted.items():
        torch.testing.assert_close(got[key], gradient, rtol=1e-6, atol=1e-8, msg=key)


@every_method
@pytest.mark.parametrize("num_workers", [2, 3])
def test_workers_get_the_loss_and_the_gradients_of_one(name, num_workers, tiny_batch, fake_gather):
    """Dropout and drawn negatives included; the last sample is a placeholder."""
    model, valid = build_method(name).double(), torch.tensor([True] * 5 + [False])
    meeting, rows = fake_gather(num_workers), 6 // num_workers

    def work(rank):
        part = [x.chunk(num_workers)[rank] for x in (*tiny_batch, valid)]
        step = TrainingStep(model, gather=meeting(rank), rank=rank)
        return step(*part, noise=NOISE.at(rank * rows))["loss"]

    with ThreadPoolExecutor(num_workers) as pool:
        mean = torch.stack(list(pool.map(work, range(num_workers)))).mean()
    whole = TrainingStep(model)(*tiny_batch, valid, noise=NOISE)["loss"]
    (wanted_loss, wanted), (got_loss, got) = (losses_and_gradients(model, loss) for loss in (whole, mean))
    assert got_loss == pytest.approx(wanted_loss, rel=1e-6)
    for key, gradient in wanted.items():
        torch.testing.assert_close(got[key], gradient, rtol=1e-6, atol=1e-8, msg=key)


@every_method
@torch.no_grad()
def test_a_vector_depends_on_its_own_video_alone(name, tiny_batch):
    model = build_method(name).eval()
    together = model.columns(model.encode_video(tiny_batch.frame))
    alone = [model.columns(model.encode_video(frame[None])) for frame in tiny_batch.frame]
    for column, values in together.items():
        apart = torch.cat([columns[column] for columns in alone])
        torch.testing.assert_close(values, apart, rtol=1e-4, atol=1e-5)


# The generator stage validates the pseudo-query, which no corpus is searched by.
@pytest.mark.parametrize("name", [name for name in METHOD_CONFIGS if name != "fpig, generator stage"])
@torch.no_grad()
def test_what_is_validated_is_what_is_searched(name, tiny_batch):
    model = build_method(name).eval()
    vectors = TrainingStep(model).eval()(*tiny_batch, torch.ones(6, dtype=torch.bool))
    searched = model.columns(model.encode_video(tiny_batch.frame))["vector"]
    torch.testing.assert_close(vectors["video"], searched, rtol=1e-5, atol=1e-6)
    order = (vectors["text"] @ searched.T).argsort(dim=1)
    assert torch.equal((model.encode_text(tiny_batch.word) @ searched.T).argsort(dim=1), order)


@every_method
def test_half_precision_stays_finite_and_near(name, tiny_batch):
    model, valid = build_method(name), torch.ones(6, dtype=torch.bool)
    full = TrainingStep(model).eval()(*tiny_batch, valid)
    with torch.autocast("cpu", torch.bfloat16):
        half = TrainingStep(model).eval()(*tiny_batch, valid)
        loss = TrainingStep(model).train()(*tiny_batch, valid, noise=NOISE)["loss"]
    assert (full["video"] * half["video"]).sum(dim=-1).min() > 0.99
    assert loss.dtype == torch.float32
    assert all(gradient.isfinite().all() for gradient in losses_and_gradients(model, loss)[1].values())


@every_method
@torch.no_grad()
def test_a_bundle_brings_the_model_back(name, tiny_batch, tmp_path):
    model = build_method(name).eval()
    model_id = save_bundle(tmp_path / "bundle", model)
    bundle = load_bundle(tmp_path / "bundle")
    assert bundle.model_id == model_id == save_bundle(tmp_path / "again", bundle.model)
    assert model_config_from_dict(model_config_to_dict(bundle.config)) == bundle.config == model.config
    loaded: Any = bundle.model
    wanted, got = (each.columns(each.encode_video(tiny_batch.frame)) for each in (model, loaded))
    assert all(torch.equal(got[column], wanted[column]) for column in wanted)


@every_method
def test_it_keeps_its_promises(name):
    model = build_method(name).eval()
    video = model.columns(model.encode_video(torch.zeros(1, 3, 3, 32, 32, dtype=torch.uint8)))
    parameters = {id(parameter) for parameter in model.parameters()}
    assert {id(parameter) for parameter, _ in model.backbone_parameters()} < parameters
    assert [isinstance(model, protocol) for protocol in (Retriever, Trainable)] == [True, True]
    if isinstance(model, Reranker):
        assert {*model.rerank_columns, *model.optional_rerank_columns} <= video.keys()
