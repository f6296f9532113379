import pytest
import torch

from fpig_core.backbone import TextTower, tokenize
from fpig_core.generator import PseudoQueryGenerator


@pytest.fixture
def tower(tiny_clip):
    return TextTower(tiny_clip)


def build(tower, *, num_tokens=32, **settings):
    return PseudoQueryGenerator(tower, token_width=96, num_tokens=num_tokens, **settings)


@pytest.mark.parametrize(("use_bos", "length"), [(True, 34), (False, 33)])
def test_reads_the_tokens_between_their_ends(tower, use_bos, length):
    generator = build(tower, use_bos=use_bos)
    assert generator.sequence(torch.randn(2, 32, 96)).shape == (2, length, 96)


@torch.no_grad()
def test_with_word_embeddings_as_tokens_it_starts_as_clip_itself(tower):
    generator = build(tower)
    torch.nn.init.eye_(generator.input.weight)
    torch.nn.init.zeros_(generator.input.bias)
    word_QL = tokenize(["a red square grows", "two blue dots move left"], context_length=20)
    for word_L in word_QL:
        num_words = int(word_L.argmax()) - 1
        words_LW = tower.token_embedding(word_L[1 : 1 + num_words])
        torch.testing.assert_close(generator(words_LW[None]), tower(word_L[None]).text_BD, rtol=1e-4, atol=1e-5)


def test_shares_no_parameter_with_the_text_tower(tower):
    own = {parameter.data_ptr() for parameter in build(tower).parameters()}
    assert not own & {parameter.data_ptr() for parameter in tower.parameters()}


def test_ends_can_be_frozen(tower):
    frozen = build(tower, train_bos_eos=False)
    assert "ends" not in dict(frozen.named_parameters())
    assert torch.equal(frozen.ends, build(tower).ends)
    assert "ends" in frozen.state_dict()


def test_without_projection_it_ends_at_the_layer_norm(tower):
    tokens = torch.randn(2, 32, 96, generator=torch.Generator().manual_seed(0))
    plain, projected = build(tower, project=False), build(tower)
    plain.load_state_dict({key: value for key, value in projected.state_dict().items() if key != "projection"})
    torch.testing.assert_close(plain(tokens) @ projected.projection, projected(tokens))


def test_too_many_tokens_are_refused(tower):
    with pytest.raises(ValueError, match="need 78 word positions; CLIP has 77"):
        build(tower, num_tokens=76)
