import dataclasses

import pytest
import torch
from torch import Tensor

from fpig_core.backbone import Backbone, tokenize
from fpig_core.bundle import load_bundle, save_bundle
from fpig_core.fpig import FPig, FPigConfig
from fpig_core.preprocess import Preprocess
from fpig_core.rows import Rows
from fpig_core.training_step import TrainingStep

CONFIG = FPigConfig(
    backbone=Backbone(name="tiny", context_length=12),
    preprocess=Preprocess(num_frames=1, size=32),
    stage="generator",
)
COLOURS = ("red", "green", "blue", "yellow", "purple", "cyan", "white", "orange")
NUM = len(COLOURS)


@pytest.fixture
def model() -> FPig:
    torch.manual_seed(0)
    return FPig(CONFIG)


@pytest.fixture
def stills() -> tuple[Tensor, Tensor]:
    """Eight images, a colour each and some noise, as videos of one frame; and what they show."""
    generator = torch.Generator().manual_seed(1)
    colour_B = torch.randint(0, 200, (NUM, 1, 3, 1, 1), generator=generator)
    frame_BF3HW = colour_B + torch.randint(0, 56, (NUM, 1, 3, 32, 32), generator=generator)
    words = tokenize([f"a {colour} square" for colour in COLOURS], context_length=12)
    return frame_BF3HW.to(torch.uint8), words


def everything(num: int) -> Tensor:
    return torch.ones(num, dtype=torch.bool)


def test_the_generator_alone_learns(model, stills):
    step = TrainingStep(model, micro_batch=3)
    losses = step(*stills, everything(NUM))
    losses["loss"].backward()
    learned = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert learned == {name for name, _ in model.named_parameters() if name.startswith("generator.")}
    assert all(parameter.grad.any() for parameter in model.generator.parameters())
    assert learned == {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@torch.no_grad()
def test_the_loss_is_the_mean_of_two_less_two_cosines(model, stills):
    frames, words = stills
    valid_B = everything(NUM)
    valid_B[5] = False
    features = model.features(frames, words)
    losses = model.loss(features, Rows.of(valid_B))
    total = 0.0
    for number in [0, 1, 2, 3, 4, 6, 7]:
        query_D = model.encode_video(frames[number][None]).pseudo_query_BD[0].double()
        text_D = model.text(words[number][None]).text_BD[0].double()
        total += float(2 - 2 * (query_D @ text_D) / (query_D.norm() * text_D.norm()))
    assert losses.keys() == {"loss"}
    assert losses["loss"].item() == pytest.approx(total / 7, rel=1e-5)


@torch.no_grad()
def test_a_video_is_found_by_its_pseudo_query(model, stills):
    video_BD = model.features(*stills).video_BD
    query_BD = model.encode_video(stills[0]).pseudo_query_BD
    torch.testing.assert_close(video_BD, query_BD / query_BD.norm(dim=-1, keepdim=True))


def test_steps_bring_the_pseudo_queries_to_the_texts_and_move_nothing_else(model, stills):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    losses = []
    for _ in range(8):
        loss = model.loss(model.features(*stills), Rows.of(everything(NUM)))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        model.clamp()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == {name for name, _ in model.generator.named_parameters(prefix="generator")}


@pytest.mark.parametrize(("train_bos_eos", "project"), [(False, True), (True, False)])
def test_other_settings_learn_as_well(stills, train_bos_eos, project):
    torch.manual_seed(0)
    model = FPig(dataclasses.replace(CONFIG, train_bos_eos=train_bos_eos, project=project, num_added_cls=0))
    model.loss(model.features(*stills), Rows.of(everything(NUM)))["loss"].backward()
    assert all(parameter.grad is not None for parameter in model.generator.parameters())


@torch.no_grad()
def test_the_bundle_remembers_the_stage(model, stills, tmp_path):
    model_id = save_bundle(tmp_path / "b", model)
    bundle = load_bundle(tmp_path / "b")
    assert (bundle.model_id, bundle.config) == (model_id, model.config)
    assert torch.equal(bundle.model.features(*stills).video_BD, model.features(*stills).video_BD)
    assert not any(p.requires_grad for name, p in bundle.model.named_parameters() if not name.startswith("generator."))


def test_an_image_must_have_the_patches_that_are_kept(stills):
    torch.manual_seed(0)
    keeps_all = FPig(dataclasses.replace(CONFIG, num_selected=16))
    index_BK = keeps_all.encode_video(stills[0]).selection.index_BK
    assert all(sorted(kept) == list(range(5, 21)) for kept in index_BK.tolist())
    with pytest.raises(ValueError, match="got num_selected=17, but a video has 16 patches"):
        FPig(dataclasses.replace(CONFIG, num_selected=17))
