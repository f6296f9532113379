from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from fpig_core.hard_negatives import draw_negatives
from fpig_core.rows import Noise, Rows

VALID = torch.tensor([True, False, True, True, True, False])


def scores(num: int = 6, spread: float = 2.0) -> torch.Tensor:
    return spread * torch.randn(num, num, generator=torch.Generator().manual_seed(0))


def draw(score, valid, seed):
    rows = Rows.of(valid, noise=None if seed is None else Noise(seed=seed))
    return draw_negatives(score, rows=rows, name="negative")


@pytest.mark.parametrize("spread", [2.0, 100.0])
def test_never_the_own_nor_a_placeholder(spread):
    """Also where softmax leaves most columns a share of exactly zero, and placeholders or the own score highest."""
    score = scores(spread=spread)
    score[:, ~VALID] += 500
    score.diagonal().add_(900)
    for seed in range(200):
        index, exists = draw(score, VALID, seed)
        assert VALID[index].all()
        assert (index != torch.arange(6)).all()
        assert exists.all()


def test_frequencies_follow_the_softmax():
    score, num_draws = scores(spread=1.0), 4000
    count = torch.zeros(6, 6)
    for seed in range(num_draws):
        count[torch.arange(6), draw(score, VALID, seed).index_B] += 1
    for row in range(6):
        others = [column for column in range(6) if VALID[column] and column != row]
        share = torch.tensor([score[row, column] for column in others]).exp()
        wanted = num_draws * share / share.sum()
        distance = ((count[row, others] - wanted) ** 2 / wanted).sum().item()
        # 99.99 % of a chi-square with at most 3 degrees of freedom
        assert distance < 21.1


def test_rows_and_names_draw_for_themselves():
    even, valid, many = torch.zeros(40, 40), torch.ones(40, dtype=torch.bool), set()
    rows = Rows.of(valid, noise=Noise(seed=0))
    for name in ("negative_text", "negative_video"):
        index = draw_negatives(even, rows=rows, name=name).index_B
        assert len(set(index.tolist())) > 10
        many.add(tuple(index.tolist()))
    assert len(many) == 2


@pytest.mark.parametrize("num_workers", [2, 3])
def test_draws_do_not_depend_on_how_the_batch_is_cut(num_workers, fake_gather):
    score, meeting = scores(), fake_gather(num_workers)

    def work(rank):
        valid_B, score_BG = VALID.chunk(num_workers)[rank], score.chunk(num_workers)[rank]
        noise = Noise(seed=5, first=rank * len(valid_B))
        rows = Rows.of(valid_B, gather=meeting(rank), rank=rank, noise=noise)
        return draw_negatives(score_BG, rows=rows, name="negative").index_B

    with ThreadPoolExecutor(num_workers) as pool:
        index = torch.cat(list(pool.map(work, range(num_workers))))
    assert torch.equal(index, draw(score, VALID, 5).index_B)


def test_without_noise_the_hardest():
    score = scores()
    index = draw(score, VALID, None).index_B
    for row in range(6):
        others = [column for column in range(6) if VALID[column] and column != row]
        assert index[row] == max(others, key=lambda column: score[row, column].item())


@pytest.mark.parametrize("seed", [None, 0])
def test_a_single_sample_has_no_negative(seed):
    valid = torch.tensor([False, True, False])
    index, exists = draw(scores(3), valid, seed)
    assert exists.tolist() == [True, False, True]
    assert ((index >= 0) & (index < 3)).all()
