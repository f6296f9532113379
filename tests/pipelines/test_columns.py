"""What a model offers is found out without running it; what is chosen follows the model's order."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from fpig_core.backbone import Backbone
from fpig_core.bundle import load_bundle
from fpig_core.models import METHODS, Reranker, Retriever
from fpig_core.preprocess import Preprocess
from pipelines.columns import Column, choose_columns, offered_columns
from tests.worlds import PREPROCESS, write_model

F, S = 3, 32


class Video(NamedTuple):
    frame_BFD: Tensor


class TwoStages(nn.Module):
    """Judges by frame vectors, and by patches where there are some."""

    rerank_columns = ("frame_vectors",)
    optional_rerank_columns = ("patch_vectors",)

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * S * S, 4)

    def encode_text(self, word_QL):
        raise NotImplementedError

    def encode_video(self, frame_BF3HW):
        return Video(self.linear(frame_BF3HW.float().flatten(2)))

    def columns(self, video):
        return {
            "patch_vectors": video.frame_BFD[:, :, None].expand(-1, -1, 5, -1),
            "frame_vectors": video.frame_BFD,
            "vector": video.frame_BFD.mean(dim=1),
            "num_frames": torch.full((len(video.frame_BFD),), F),
        }

    def encode_query(self, word_QL):
        raise NotImplementedError

    def score(self, query, video):
        raise NotImplementedError


def choose(*extra, for_reranking=True):
    chosen = choose_columns(TwoStages(), Preprocess(num_frames=F, size=S), extra=extra, for_reranking=for_reranking)
    return [str(column) for column in chosen]


def test_what_reranking_needs_is_chosen_by_default():
    assert choose() == ["vector float[4]", "frame_vectors float[3,4]"]
    assert choose(for_reranking=False) == ["vector float[4]"]


def test_extra_columns_come_in_the_models_order_whatever_was_asked_first():
    wanted = ["vector float[4]", "patch_vectors float[3,5,4]", "frame_vectors float[3,4]", "num_frames int[]"]
    assert choose("num_frames", "patch_vectors") == choose("patch_vectors", "num_frames", "frame_vectors") == wanted


def test_an_unknown_column_is_refused_with_what_there_is():
    with pytest.raises(
        ValueError, match="'frames'; this model offers vector, patch_vectors, frame_vectors, num_frames"
    ):
        choose("frames")


def test_shapes_are_those_of_a_real_pass(tmp_path):
    write_model(tmp_path / "model")
    model = load_bundle(tmp_path / "model").model
    with torch.inference_mode():
        real = model.columns(model.encode_video(torch.zeros(2, F, 3, S, S, dtype=torch.uint8)))
    offered = offered_columns(model, PREPROCESS)
    assert {column.name: column.shape for column in offered} == {name: x.shape[1:] for name, x in real.items()}
    assert [column.name for column in offered if column.kind == "int"] == ["selected_tokens"]


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_can_be_asked_without_weights(method):
    preprocess = Preprocess(num_frames=12, size=32)
    model = METHODS[method].model_type(
        METHODS[method].config_type(backbone=Backbone(name="tiny"), preprocess=preprocess)
    )
    assert isinstance(model, Retriever)
    columns = choose_columns(model, preprocess, extra=(), for_reranking=True)
    assert columns[0] == Column(name="vector", shape=columns[0].shape)
    if isinstance(model, Reranker):
        assert {column.name for column in columns} == {"vector", *model.rerank_columns}
