"""How many blocks stand above what CLIP brought along."""

import re

import pytest

from tests.methods import build_method

NUM_BLOCKS = {"video": 3, "text": 2}
EMBEDDINGS = ("conv1", "class_embedding", "positional_embedding", "ln_pre", "token_embedding")
NEW = ("added_cls", "frame_cls", "temporal_embedding")


@pytest.mark.parametrize("name", ["fpig", "mean_pool", "eercf", "t2v2t"])
def test_depth_is_told_of_all_that_clip_brought_along(name: str) -> None:
    """The oracle goes by names alone."""
    model = build_method(name)
    depth = {id(parameter): above for parameter, above in model.backbone_parameters()}
    for key, parameter in model.named_parameters():
        tower, _, rest = key.partition(".")
        if tower not in NUM_BLOCKS or rest in NEW:
            assert id(parameter) not in depth, key
        elif block := re.match(r"(?:blocks|transformer\.resblocks)\.(\d+)\.", rest):
            assert depth[id(parameter)] == NUM_BLOCKS[tower] - 1 - int(block[1]), key
        else:
            assert depth[id(parameter)] == NUM_BLOCKS[tower] * rest.startswith(EMBEDDINGS), key
