"""What the model sees is what open_clip's own preprocessing would show it."""

from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from fpig_core.backbone import Backbone, build_clip
from fpig_core.normalise import normalise
from fpig_core.preprocess import OPENAI_MEAN, OPENAI_STD, Preprocess
from pipelines.resize import to_model_size

SIZE = 32


@pytest.fixture(scope="module")
def embed():
    torch.manual_seed(0)
    visual = build_clip(Backbone(name="tiny")).visual.eval()

    @torch.no_grad()
    def embed(image_B3HW):
        return torch.nn.functional.normalize(visual(image_B3HW), dim=-1)[0]

    return embed


@pytest.mark.parametrize("mode", ["squash", "shortest"])
@pytest.mark.parametrize("size", [(320, 240), (240, 320), (1281, 719), (33, 31), (20, 50)])
def test_embeddings_equal_those_after_the_reference_preprocessing(embed, mode, size):
    noise_HW3 = np.random.default_rng(7).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    image = Image.fromarray(noise_HW3).resize(size, Image.Resampling.BICUBIC)
    reference: Any = open_clip.image_transform(
        SIZE, is_train=False, mean=OPENAI_MEAN, std=OPENAI_STD, resize_mode=mode, interpolation="bicubic"
    )
    preprocess = Preprocess(size=SIZE, resize_mode=mode)

    def ours(image):
        return embed(normalise(torch.from_numpy(to_model_size(image, preprocess))[None, None], preprocess)[0])

    wanted = embed(reference(image)[None])
    assert ours(image) @ wanted >= 0.999
    assert ours(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)) @ wanted < 0.999
