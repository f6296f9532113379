"""Checkpoints are made here from random weights of a small model that open_clip itself can build."""

import open_clip
import pytest
import torch
import torch.nn.functional as nnf
from open_clip.model import convert_weights_to_fp16
from safetensors.torch import save_file

from fpig_core.backbone import Backbone, TextTower, build_clip, settle, tokenize

NAME = "ViT-small-test"


@pytest.fixture
def small(monkeypatch):
    """``NAME`` in open_clip's own registry, with the head width of 64 that its OpenAI loader takes for granted."""
    settings = {
        "embed_dim": 64,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 128, "patch_size": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2},
    }
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, NAME, settings)
    torch.manual_seed(0)
    return open_clip.create_model(NAME).eval()


@torch.no_grad()
def assert_same_features(backbone, wanted):
    clip = build_clip(backbone).eval()
    frames = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    captions = ["a red square", "two dots that move to the left", ""]
    short = tokenize(captions, context_length=backbone.context_length)
    words = tokenize(captions, context_length=77)
    torch.testing.assert_close(clip.visual(frames), wanted.encode_image(frames), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(TextTower(clip)(short).text_BD, wanted.encode_text(words), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", ["plain", "training checkpoint", "safetensors"])
def test_open_clip_files_give_open_clips_features(small, tmp_path, form):
    path = tmp_path / ("weights.safetensors" if form == "safetensors" else "weights.pt")
    weights = small.state_dict()
    if form == "plain":
        torch.save(weights, path)
    elif form == "safetensors":
        save_file(weights, path)
    else:
        torch.save({"epoch": 3, "state_dict": {f"module.{key}": value for key, value in weights.items()}}, path)
    backbone = Backbone(name=NAME, pretrained=str(path), context_length=20)
    assert settle(backbone, build_clip(backbone)).activation == "gelu"
    assert_same_features(backbone, open_clip.create_model(NAME, pretrained=str(path)).eval())


class OpenAIArchive(torch.nn.Module):
    """The tensors of a CLIP under their own names, for TorchScript."""

    def __init__(self, clip):
        super().__init__()
        for name, child in clip.named_children():
            self.add_module(name, OpenAIArchive(child))
        for name, parameter in clip.named_parameters(recurse=False):
            self.register_parameter(name, parameter)

    def forward(self, x):
        return x


@pytest.mark.parametrize("form", ["state dict", "torchscript"])
def test_openai_files_give_open_clips_features_with_quick_gelu(small, tmp_path, form):
    path = tmp_path / "ViT.pt"
    convert_weights_to_fp16(small)
    if form == "state dict":
        sizes = {"input_resolution": 32, "context_length": 77, "vocab_size": 49408}
        torch.save(small.state_dict() | {key: torch.tensor(size) for key, size in sizes.items()}, path)
    else:
        torch.jit.save(torch.jit.script(OpenAIArchive(small)), path)
    backbone = Backbone(name=NAME, pretrained=str(path), context_length=20)
    assert settle(backbone, build_clip(backbone)).activation == "quick_gelu"
    assert_same_features(backbone, open_clip.load_openai_model(str(path), precision="fp32", device="cpu"))


def test_patch_positions_are_resized_as_open_clip_does(small, tmp_path, monkeypatch):
    path = tmp_path / "weights.pt"
    torch.save(small.state_dict(), path)
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS[NAME]["vision_cfg"], "image_size", 64)
    ours = build_clip(Backbone(name=NAME, pretrained=str(path))).visual.state_dict()
    theirs = open_clip.create_model(NAME, pretrained=str(path)).get_submodule("visual").state_dict()
    assert ours["positional_embedding"].shape == (17, 128)
    assert torch.equal(ours["positional_embedding"], theirs["positional_embedding"])


@pytest.mark.parametrize(
    "name",
    ["RN50", "ViT-B-16-SigLIP", "roberta-ViT-B-32", "coca_ViT-B-32", "ViT-H-14-CLIPA", "convnext_base"],
)
def test_unsupported_towers_are_refused(name):
    with pytest.raises(ValueError, match=r"wanted open_clip's plain VisionTransformer.*use for example ViT-B-32"):
        build_clip(Backbone(name=name))


@pytest.mark.parametrize("name", ["ViT-B-33", "hf-hub:someone/model", "local-dir:/tmp"])
def test_unknown_names_are_refused_without_looking_anywhere(name):
    with pytest.raises(ValueError, match="wanted 'tiny' or an open_clip model name"):
        build_clip(Backbone(name=name))


class Bomb:
    def __reduce__(self):
        return (print, ("executed",))


def test_pickles_are_not_executed(small, tmp_path, capsys):
    path = tmp_path / "weights.pt"
    torch.save(small.state_dict() | {"bomb": Bomb()}, path)
    with pytest.raises(ValueError, match="more than plain tensors"):
        build_clip(Backbone(name=NAME, pretrained=str(path)))
    assert capsys.readouterr().out == ""


def test_weights_of_another_model_are_refused(small, tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(small.state_dict(), path)
    with pytest.raises(ValueError, match="do not fit tiny"):
        build_clip(Backbone(name="tiny", pretrained=str(path)))


def test_unknown_tags_and_long_contexts_are_refused():
    with pytest.raises(ValueError, match="neither a file nor a tag"):
        build_clip(Backbone(name="tiny", pretrained="no_such_tag"))
    with pytest.raises(ValueError, match="use at most 77"):
        build_clip(Backbone(name="tiny", context_length=78))


def test_long_texts_keep_their_end_mark():
    word_QL = tokenize(["red " * 40, "red"], context_length=8)
    assert word_QL.shape == (2, 8)
    assert word_QL.max(dim=1).values.tolist() == [49407, 49407]
    assert word_QL[0, -1] == 49407


@torch.no_grad()
def test_activation_can_be_forced(tiny_clip):
    torch.manual_seed(0)
    quick = build_clip(Backbone(name="tiny", activation="quick_gelu"))
    frames = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    assert not torch.equal(nnf.normalize(quick.visual(frames)), nnf.normalize(tiny_clip.visual(frames)))
