"""One evaluation for all models: joined by id, the multi-sentence rules, what every result must carry."""

import json
from typing import Any

import numpy as np
import pytest
import torch

from fpig_core.breakdown import length_group
from fpig_core.evaluate_encoder import evaluate_encoder
from fpig_core.evaluation import (
    Extras,
    Queries,
    Subject,
    evaluate_scores,
    evaluate_vectors,
    read_qrels,
)
from fpig_core.metrics import retrieval_metrics
from fpig_core.normalisers import Bank
from tests.fpig_core.test_ranks import unit_vectors

SUBJECT = Subject(model_id="m", data_id="d")
FEW = Extras(num_resamples=20)
QUERIES = Queries(
    ids=("a0", "a1", "b0", "c0"),
    texts=("a dog", "a dog runs over a field of grass", "a dog", "two cats sit"),
    video_ids=("A", "A", "B", "C"),
)
VIDEOS = ("C", "A", "B", "D")


def known_scores():
    """Columns as in ``VIDEOS``: a0 finds A first, a1 third, b0 ties with all, c0 finds C second."""
    return torch.tensor([[0.1, 0.9, 0.2, 0.3], [0.5, 0.3, 0.4, 0.0], [0.2, 0.2, 0.2, 0.2], [0.6, 0.1, 0.0, 0.7]])


def test_a_known_matrix_under_the_multi_sentence_rules():
    judged = evaluate_scores(QUERIES, VIDEOS, known_scores(), subject=SUBJECT, extras=FEW)
    assert judged.ranks["main"].t2v_Q.tolist() == [1, 3, 4, 2]
    # C (column 0): 0.6 is the best. A: 0.9 is the best of its two. B: 0.2 ties with a0, and a1 has 0.4.
    assert judged.ranks["main"].video_R.tolist() == [0, 1, 2]
    assert judged.ranks["main"].v2t_R.tolist() == [1, 1, 3]
    assert judged.result["t2v"]["R@1"] == 25
    assert judged.result["num_captioned_videos"] == 3
    assert judged.result["num_ambiguous_queries"] == 2


def test_order_of_videos_and_queries_changes_nothing():
    score = known_scores()
    rows, columns = [2, 0, 3, 1], [3, 1, 0, 2]
    shuffled = Queries(**{name: tuple(value[i] for i in rows) for name, value in vars(QUERIES).items()})
    one = evaluate_scores(QUERIES, VIDEOS, score, subject=SUBJECT, extras=FEW).result
    other = evaluate_scores(
        shuffled, [VIDEOS[i] for i in columns], score[rows][:, columns], subject=SUBJECT, extras=FEW
    ).result
    assert (one["t2v"], one["v2t"], one["protocol"]) == (other["t2v"], other["v2t"], other["protocol"])


def test_every_result_carries_what_it_must():
    judged = evaluate_vectors(
        QUERIES, unit_vectors(4, 5, 0), VIDEOS, unit_vectors(4, 5, 1), subject=SUBJECT, extras=FEW
    )
    wanted = {"schema", "split", "num_queries", "num_videos", "tie_rule", "normaliser", "first_stage_k", "select_on"}
    wanted |= {"model_id", "manifest_digest", "protocol", "intervals", "breakdown", "bootstrap", "t2v", "v2t"}
    assert wanted <= judged.result.keys()
    assert "normalised" not in judged.result
    json.dumps(judged.result, allow_nan=False)
    target = torch.tensor([1, 1, 2, 0])
    plain = retrieval_metrics(unit_vectors(4, 5, 0), unit_vectors(4, 5, 1), target)
    assert {name: judged.result[name] for name in plain} == plain


def test_normalised_results_stand_apart_and_say_so_in_their_names():
    bank = Bank(unit_vectors(6, 5, 2), unit_vectors(3, 5, 3), "train")
    extras = Extras(normalisers=("dsl", "qb_norm"), bank=bank, num_resamples=5)
    result = evaluate_vectors(
        QUERIES, unit_vectors(4, 5, 0), VIDEOS, unit_vectors(4, 5, 1), subject=SUBJECT, extras=extras
    ).result
    assert result["normaliser"] == "none"
    names = ["dsl(scale=100, bank=the test itself)", "qb_norm(scale=20, bank=train)"]
    assert list(result["normalised"]) == names
    assert list(result["intervals"]) == ["main", *names]


def test_groups_add_up():
    extras = Extras(num_resamples=5, categories={"A": "pets", "C": "pets", "D": "none asked"})
    breakdown = evaluate_scores(QUERIES, VIDEOS, known_scores(), subject=SUBJECT, extras=extras).result["breakdown"]
    lengths = {group["group"]: group["t2v_num"] for group in breakdown["caption_length"]}
    assert lengths == {"0–4 words": 3, "5–8 words": 1}
    categories = {group["group"]: (group["t2v_num"], group["v2t_num"]) for group in breakdown["category"]}
    assert categories == {"pets": (3, 2), "(none)": (1, 1)}
    assert breakdown["category"][0]["t2v"]["MnR"] == 2
    assert breakdown["category"][1]["v2t"]["MnR"] == 3


def test_lengths_have_one_group_each():
    groups = {length_group("word " * n) for n in range(40)}
    assert groups == {"0–4 words", "5–8 words", "9–12 words", "13–16 words", "17–24 words", "25 words and more"}


def test_relevance_judgements_become_queries():
    queries = read_qrels({"q2": {"v1": 1, "v9": 0}, "q1": {"v2": 1}}, {"q1": "one", "q2": "two"})
    assert queries == Queries(ids=("q2", "q1"), texts=("two", "one"), video_ids=("v1", "v2"))
    with pytest.raises(ValueError, match="2 relevant videos for query q"):
        read_qrels({"q": {"a": 1, "b": 2}}, {"q": "text"})
    with pytest.raises(ValueError, match="no text for query q"):
        read_qrels({"q": {"a": 1}}, {})


class Their:
    """A model from elsewhere: texts and videos are numbers."""

    def encode_texts(self, texts):
        return np.eye(4, dtype=np.float32)[[int(text) for text in texts]]

    def encode_videos(self, videos):
        return torch.eye(4)[videos]


def test_a_model_from_elsewhere_is_judged_with_its_costs():
    queries = Queries(ids=("x", "y", "z"), texts=("0", "1", "3"), video_ids=("v0", "v2", "v3"))
    videos = [(f"v{i}", i) for i in range(4)]
    result = evaluate_encoder(Their(), queries, iter(videos), subject=SUBJECT, extras=FEW, batch=3).result
    assert result["t2v"]["R@1"] == pytest.approx(200 / 3)
    assert result["bytes_per_video"] == 16
    assert result["ms_per_query"] > 0
    assert result["videos_per_s"] > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"video_ids": ("A", "A", "B", "E")}, "1 ids of queries without a video .first: E"),
        ({"ids": ("a0", "a0", "b0", "c0")}, "3 distinct ids"),
        ({"texts": ("a",)}, "1 texts"),
    ],
)
def test_queries_that_do_not_fit_are_refused(changes: dict[str, Any], message):
    with pytest.raises(ValueError, match=message):
        evaluate_scores(Queries(**(vars(QUERIES) | changes)), VIDEOS, known_scores(), subject=SUBJECT)


def test_what_cannot_be_judged_is_refused():
    score = known_scores()
    with pytest.raises(ValueError, match=r"got scores \[4, 3\], wanted \[4, 4\]"):
        evaluate_scores(QUERIES, VIDEOS, score[:, :3], subject=SUBJECT)
    with pytest.raises(ValueError, match="normalisers take vectors"):
        evaluate_scores(QUERIES, VIDEOS, score, subject=SUBJECT, extras=Extras(normalisers=("dsl",)))
    with pytest.raises(ValueError, match="4 videos with 3 distinct ids"):
        evaluate_scores(QUERIES, ("C", "A", "B", "B"), score, subject=SUBJECT)
    with pytest.raises(ValueError, match="NaN or inf"):
        evaluate_scores(QUERIES, VIDEOS, score * torch.nan, subject=SUBJECT)
    with pytest.raises(ValueError, match="qb_norm needs a bank"):
        Extras(normalisers=("qb_norm",))
