"""Normalised ranks equal a slow loop over whole matrices, whatever the blocks; names tell what was done."""

import math

import pytest
import torch

from fpig_core.normalisers import SCALE, Bank, best_candidates, full_name, log_sums, rank_normalised
from fpig_core.ranks import VectorScores
from tests.fpig_core.test_ranks import slow_ranks, slow_video_ranks, unit_vectors

QUERY, VIDEO = unit_vectors(17, 6, 0), unit_vectors(9, 6, 1)
TARGET = torch.randint(0, 8, (17,), generator=torch.Generator().manual_seed(2))
SCORE = (QUERY.double() @ VIDEO.double().T).tolist()
CAPTIONED = sorted(set(TARGET.tolist()))
BANK = Bank(unit_vectors(6, 6, 3), unit_vectors(5, 6, 4), "train")


def transposed(matrix):
    return [list(column) for column in zip(*matrix, strict=True)]


def slow_dsl(score, searchers, scale):
    """Rows are searchers of the softmax, columns candidates."""
    total = [sum(math.exp(scale * score[r][c]) for r in searchers) for c in range(len(score[0]))]
    return [[s * math.exp(scale * s) / total[c] for c, s in enumerate(row)] for row in score]


def slow_inverted(score, bank, scale):
    total = [sum(math.exp(scale * row[c]) for row in bank) for c in range(len(score[0]))]
    return [[math.exp(scale * s) / total[c] for c, s in enumerate(row)] for row in score]


def slow_dynamic(score, bank, scale):
    liked = {max(range(len(row)), key=row.__getitem__) for row in bank}
    inverted = slow_inverted(score, bank, scale)
    return [inverted[r] if max(range(len(row)), key=row.__getitem__) in liked else row for r, row in enumerate(score)]


def expected(to_video, to_text):
    """``to_text`` has videos as rows."""
    return (
        slow_ranks(torch.tensor(to_video, dtype=torch.float64), TARGET),
        slow_video_ranks(torch.tensor(transposed(to_text), dtype=torch.float64), TARGET),
    )


def found(kind, bank=None):
    ranks = rank_normalised(kind, QUERY, VIDEO, TARGET, bank=bank)
    return ranks.t2v_Q.tolist(), ranks.v2t_R.tolist()


def test_dual_softmax_equals_a_slow_loop():
    scale = SCALE["dsl"]
    by_video = slow_dsl(SCORE, range(17), scale)
    by_text = slow_dsl(transposed(SCORE), CAPTIONED, scale)
    assert found("dsl") == expected(by_video, by_text)


def test_inverted_softmax_equals_a_slow_loop():
    scale, searching_videos = SCALE["inverted_softmax"], [transposed(SCORE)[b] for b in CAPTIONED]
    by_text = slow_inverted(transposed(SCORE), searching_videos, scale)
    assert found("inverted_softmax") == expected(slow_inverted(SCORE, SCORE, scale), by_text)


def test_querybank_normalisation_equals_a_slow_loop():
    scale = SCALE["qb_norm"]
    past_texts = (BANK.query_QD.double() @ VIDEO.double().T).tolist()
    past_videos = (BANK.video_BD.double() @ QUERY.double().T).tolist()
    by_video = slow_dynamic(SCORE, past_texts, scale)
    by_text = slow_dynamic(transposed(SCORE), past_videos, scale)
    assert found("qb_norm", BANK) == expected(by_video, by_text)
    assert by_video != SCORE  # some query is normalised,
    assert any(row in SCORE for row in by_video)  # and some is not


@pytest.mark.parametrize("kind", ["dsl", "inverted_softmax"])
def test_a_constant_scorer_gets_the_worst_rank(kind):
    one = torch.full((6, 4), 0.5)
    ranks = rank_normalised(kind, one, one, torch.arange(6))
    assert ranks.t2v_Q.tolist() == ranks.v2t_R.tolist() == [6] * 6


@pytest.mark.parametrize("max_scores", [1, 30])
def test_sums_and_best_candidates_do_not_depend_on_blocks(max_scores):
    scores, whole = VectorScores(QUERY, VIDEO), torch.tensor(SCORE, dtype=torch.float64)
    torch.testing.assert_close(log_sums(scores, 20.0, of="video", max_scores=max_scores), (20 * whole).logsumexp(0))
    torch.testing.assert_close(log_sums(scores, 20.0, of="query", max_scores=max_scores), (20 * whole).logsumexp(1))
    assert best_candidates(scores, of="query", max_scores=max_scores).tolist() == whole.argmax(1).tolist()
    assert best_candidates(scores, of="video", max_scores=max_scores).tolist() == whole.argmax(0).tolist()


def test_names_tell_what_was_done():
    assert full_name("dsl") == "dsl(scale=100, bank=the test itself)"
    assert full_name("qb_norm", bank=BANK) == "qb_norm(scale=20, bank=train)"


def test_a_bank_belongs_to_qb_norm_alone():
    with pytest.raises(ValueError, match="qb_norm without a bank"):
        rank_normalised("qb_norm", QUERY, VIDEO, TARGET)
    with pytest.raises(ValueError, match="dsl with a bank"):
        rank_normalised("dsl", QUERY, VIDEO, TARGET, bank=BANK)
