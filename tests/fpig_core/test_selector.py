import pytest
import torch

from fpig_core.selector import select_tokens


@pytest.fixture
def tokens():
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(3, 40, 8, generator=generator, requires_grad=True),
        torch.rand(3, 4, 40, generator=generator),
        torch.rand(40, generator=generator) > 0.4,
    )


@pytest.mark.parametrize("reduce", ["max", "mean"])
def test_equals_sorting_the_patches_of_each_video(tokens, reduce):
    token_BND, attention_BHN, is_patch_N = tokens
    selection = select_tokens(token_BND, attention_BHN, is_patch_N=is_patch_N, num_selected=6, reduce=reduce)
    for video in range(3):
        by_head = attention_BHN[video].T.tolist()
        score = [max(heads) if reduce == "max" else sum(heads) / len(heads) for heads in by_head]
        patches = [number for number in range(40) if is_patch_N[number]]
        best = sorted(patches, key=lambda number: -score[number])[:6]
        assert selection.index_BK[video].tolist() == best
        assert torch.equal(selection.token_BKD[video], token_BND[video, best])


def test_keeps_distinct_patches_only_even_if_others_are_looked_at_more(tokens):
    token_BND, attention_BHN, is_patch_N = tokens
    attention_BHN[:, :, ~is_patch_N] = 9.0
    selection = select_tokens(token_BND, attention_BHN, is_patch_N=is_patch_N, num_selected=6)
    assert is_patch_N[selection.index_BK].all()
    assert all(len(set(kept)) == 6 for kept in selection.index_BK.tolist())
    assert torch.isneginf(selection.score_BN[:, ~is_patch_N]).all()


def test_gradients_reach_kept_tokens_only_and_not_the_choice(tokens):
    token_BND, attention_BHN, is_patch_N = tokens
    attention_BHN.requires_grad_()
    selection = select_tokens(token_BND, attention_BHN, is_patch_N=is_patch_N, num_selected=6)
    selection.token_BKD.sum().backward()
    assert attention_BHN.grad is None
    assert token_BND.grad.sum().item() == 3 * 6 * 8
