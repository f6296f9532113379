"""What MTEB would get from a bundle are the vectors that the bundle gives. MTEB itself is not installed here."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from fpig_core.bundle import load_bundle
from fpig_core.frames import uniform_indices
from fpig_core.retrieval import encode_queries
from jobs.mteb_encoder import MtebEncoder
from tests.worlds import PREPROCESS, write_model

TASK = {"task_metadata": None, "hf_split": "test", "hf_subset": "default", "prompt_type": None, "batch_size": 2}


class MadeUpDecoder:
    """As torchcodec's: a length, and frames by number."""

    def __init__(self, frame_F3HW: np.ndarray) -> None:
        self.frame_F3HW = frame_F3HW

    def __len__(self) -> int:
        return len(self.frame_F3HW)

    def get_frames_at(self, indices):
        return SimpleNamespace(data=torch.from_numpy(self.frame_F3HW[indices]))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle") / "model"
    write_model(folder)
    return MtebEncoder(folder, model_meta="told"), load_bundle(folder)


def test_texts_and_videos_become_the_vectors_of_the_bundle(encoder):
    ours, bundle = encoder
    texts = ["a red square", "a blue circle", "two dogs"]
    loader = DataLoader([{"id": i, "text": text} for i, text in enumerate(texts)], batch_size=2)  # pyright: ignore
    np.testing.assert_allclose(ours.encode(loader, **TASK), encode_queries(bundle, texts), atol=1e-6)
    rng, size = np.random.default_rng(0), PREPROCESS.size
    videos = [rng.integers(0, 256, (num, 3, size, size), np.uint8) for num in (9, 4, 2)]
    loader = DataLoader([{"video": MadeUpDecoder(video)} for video in videos], batch_size=2)  # pyright: ignore
    got = ours.encode(loader, **TASK)
    frames = [video[uniform_indices(len(video), PREPROCESS.num_frames)] for video in videos]
    with torch.inference_mode():
        encoded = bundle.model.encode_video(torch.from_numpy(np.stack(frames)))
    np.testing.assert_allclose(got, bundle.model.columns(encoded)["vector"].numpy(), atol=1e-5)
    assert ours.mteb_model_meta == "told"


def test_similarities_are_inner_products(encoder):
    one, two = np.eye(3, dtype=np.float32)[:2], torch.arange(6.0).reshape(2, 3)
    assert encoder[0].similarity(one, two).tolist() == [[0, 3], [1, 4]]
    assert encoder[0].similarity_pairwise(one, two).tolist() == [0, 4]


def test_rows_with_both_or_neither_are_refused(encoder):
    for row, told in (({"image": 1}, "neither"), ({"text": "a", "video": 1}, "text and video")):
        with pytest.raises(ValueError, match=told):
            encoder[0].encode(DataLoader([row], batch_size=1), **TASK)  # pyright: ignore
