import pytest
import torch
import torch.nn.functional as nnf

from fpig_core.backbone import TextTower
from fpig_core.temporal import TemporalTransformer

WIDTH = 96


@pytest.fixture
def text(tiny_clip) -> TextTower:
    return TextTower(tiny_clip)


def build(text, *, width=WIDTH, num_frames=5, num_layers=3, **settings) -> TemporalTransformer:
    torch.manual_seed(0)
    temporal = TemporalTransformer(text, width=width, num_frames=num_frames, num_layers=num_layers, **settings)
    return temporal.double().eval()


def frames(num_frames=5):
    return torch.randn(2, num_frames, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def slow(temporal, frame_FD):
    """One video, frame by frame and head by head."""
    x = list(frame_FD + temporal.position)
    for block in temporal.transformer.resblocks:
        heads = block.attn.num_heads
        normed = [nnf.layer_norm(frame, (WIDTH,), block.ln_1.weight, block.ln_1.bias) for frame in x]
        qkv = [
            (block.attn.in_proj_weight @ frame + block.attn.in_proj_bias).view(3, heads, WIDTH // heads)
            for frame in normed
        ]
        for here, (query, _, _) in enumerate(qkv):
            mixed = []
            for head in range(heads):
                logits = [query[head] @ there[1, head] / (WIDTH // heads) ** 0.5 for there in qkv]
                weights = torch.stack(logits).softmax(dim=0)
                mixed.append(sum(weight * there[2, head] for weight, there in zip(weights, qkv, strict=True)))
            x[here] = x[here] + block.attn.out_proj(torch.cat(mixed))
        x = [frame + block.mlp(block.ln_2(frame)) for frame in x]
    return frame_FD + torch.stack(x)


@torch.no_grad()
@pytest.mark.parametrize("init", ["text", "random"])
def test_equals_the_transformer_frame_by_frame(text, init):
    temporal, frame_BFD = build(text, init=init), frames()
    wanted = torch.stack([slow(temporal, frame_FD) for frame_FD in frame_BFD])
    torch.testing.assert_close(temporal(frame_BFD), wanted, rtol=1e-8, atol=1e-9)


@torch.no_grad()
def test_it_starts_as_the_first_layers_of_the_text_transformer_and_shares_none(text):
    temporal, frame_BFD = build(text, num_layers=2), frames()
    reading_BFD = text.double().transformer(frame_BFD + text.positional_embedding[:5])
    torch.testing.assert_close(temporal(frame_BFD), frame_BFD + reading_BFD)
    old = {parameter.data_ptr() for parameter in text.parameters()}
    assert old.isdisjoint(parameter.data_ptr() for parameter in temporal.parameters())


@torch.no_grad()
def test_only_positions_tell_the_order(text):
    temporal, frame_BFD = build(text), frames()
    backwards = frame_BFD.flip(1)
    assert not torch.allclose(temporal(backwards), temporal(frame_BFD).flip(1))
    temporal.position.copy_(temporal.position[0].expand(5, -1))
    torch.testing.assert_close(temporal(backwards), temporal(frame_BFD).flip(1))


@torch.no_grad()
def test_other_numbers_of_frames_get_positions_in_between(text):
    temporal = build(text, num_frames=4)
    temporal.position.copy_(torch.arange(4.0)[:, None].expand(-1, WIDTH))
    wanted = build(text, num_frames=8)
    wanted.load_state_dict(temporal.state_dict() | {"position": wanted.position})
    places = torch.tensor([0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3])
    wanted.position.copy_(places[:, None].expand(-1, WIDTH))
    torch.testing.assert_close(temporal(frames(8)), wanted(frames(8)))


def test_a_text_transformer_that_cannot_be_the_start_is_refused(text):
    for unfit in ({"width": 48}, {"num_frames": 78}):
        with pytest.raises(ValueError, match="use temporal_init='random'"):
            build(text, **unfit)
        build(text, init="random", **unfit)
