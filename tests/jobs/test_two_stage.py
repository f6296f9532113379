"""Evaluation and search in two stages: the second one decides, the first one is told beside it."""

import dataclasses

import numpy as np
import pytest

from fpig_core.backbone import Backbone
from fpig_core.bundle import load_bundle, save_bundle
from fpig_core.models import METHODS
from fpig_core.retrieval import encode_queries
from jobs.embed_corpus import Args as EmbedArgs
from jobs.embed_corpus import main as embed
from jobs.evaluate import Args, main
from jobs.search import Args as SearchArgs
from jobs.search import main as search
from jobs.verify_corpus import Args as VerifyArgs
from jobs.verify_corpus import main as verify
from pipelines.embed import EmbedSettings
from tests.worlds import JUDGE, PREPROCESS, caption_of, write_corpus, write_judge, write_model, write_shards

NUM_ROWS = 10
REJECTED = (2, 7)


@pytest.fixture
def world(tmp_path, monkeypatch):
    """The first stage looks for each video in the place of the one before; the second one knows better."""
    monkeypatch.setitem(METHODS, "judge", JUDGE)
    monkeypatch.setattr("jobs.evaluate.NUM_TIMED", 1)
    model, model_id = str(tmp_path / "model"), write_judge(tmp_path / "model")
    manifest = write_shards(tmp_path / "shards", NUM_ROWS)
    own = encode_queries(load_bundle(tmp_path / "model"), [caption_of(number) for number in range(NUM_ROWS)])
    frames = np.stack([0.5 * own, own, np.zeros_like(own)], axis=1)
    wrong = np.roll(own, 1, axis=0)
    write_corpus(
        str(tmp_path / "corpus"),
        manifest,
        wrong,
        rejected=REJECTED,
        further={"frame_vectors": frames},
        model_id=model_id,
        model=model,
    )
    write_corpus(str(tmp_path / "plain"), manifest, wrong, model_id=model_id, model=model)
    return tmp_path


def test_the_second_stage_decides_and_the_first_is_told_beside_it(world):
    args = Args(corpus=str(world / "corpus"))
    one, two = main(args).summary, main(dataclasses.replace(args, rerank_top=NUM_ROWS)).summary
    assert (one["first_stage_k"], two["first_stage_k"]) == (None, NUM_ROWS)
    assert "first_stage" not in one
    assert two["first_stage"] == {direction: one[direction] for direction in ("t2v", "v2t")}
    assert one["t2v"]["R@1"] == one["v2t"]["R@1"] == 0
    assert two["t2v"]["R@1"] == two["v2t"]["R@1"] == 100
    assert two["ms_per_query"] > 0


def test_one_candidate_leaves_the_first_place_as_it_is(world):
    args = Args(corpus=str(world / "corpus"), queries="all", rerank_top=1)
    result = main(args).summary
    for direction in ("t2v", "v2t"):
        assert result[direction]["R@1"] == result["first_stage"][direction]["R@1"]


def test_search_shows_what_the_second_stage_prefers(world):
    args = SearchArgs(corpus=str(world / "corpus"), query=caption_of(4), top=2)
    assert search(args).summary["results"][0]["video_id"] == "video5"
    summary = search(dataclasses.replace(args, rerank_top=8)).summary
    assert summary["results"][0]["video_id"] == "video4"
    assert summary["results"][0]["score"] == pytest.approx(1, abs=1e-5)
    assert summary["first_stage_k"] == 8


def test_requests_that_cannot_work_say_what_would(world):
    with pytest.raises(
        ValueError, match=r"got the columns vector; reranking needs frame_vectors too.*--rerank-columns"
    ):
        main(Args(corpus=str(world / "plain"), rerank_top=5))
    with pytest.raises(ValueError, match="--rerank-top -1"):
        main(Args(corpus=str(world / "corpus"), rerank_top=-1))
    with pytest.raises(ValueError, match="rerank_top=4, wanted 0, or at least top=5"):
        search(SearchArgs(corpus=str(world / "corpus"), query="a", rerank_top=4))


def test_a_model_that_reranks_nothing_is_refused(tmp_path):
    model_id = write_model(tmp_path / "model")
    manifest = write_shards(tmp_path / "shards", 4)
    vectors = np.eye(4, 96, dtype=np.float32)
    write_corpus(str(tmp_path / "corpus"), manifest, vectors, model_id=model_id, model=str(tmp_path / "model"))
    with pytest.raises(ValueError, match="a fpig, which reranks nothing; leave --rerank-top out"):
        main(Args(corpus=str(tmp_path / "corpus"), rerank_top=5))


@pytest.mark.slow
@pytest.mark.parametrize("method", [name for name in sorted(METHODS) if hasattr(METHODS[name].model_type, "score")])
def test_every_method_that_reranks_finds_what_it_needs_in_its_own_corpus(ray_local, tmp_path, method):
    config = METHODS[method].config_type(backbone=Backbone(name="tiny"), preprocess=PREPROCESS)
    save_bundle(tmp_path / "model", METHODS[method].model_type(config))
    write_shards(tmp_path / "shards", 6, flaws={2: "no_video"})
    model, shards, corpus = (str(tmp_path / name) for name in ("model", "shards", "corpus"))
    settings = EmbedSettings(part_rows=4, batch_size=4)
    embed(EmbedArgs(model=model, manifest=shards, out=corpus, settings=settings, max_rejected="50%", tracking="none"))
    assert verify(VerifyArgs(corpus=corpus)).summary["sound"]
    one = main(Args(corpus=corpus, queries="all")).summary
    two = main(Args(corpus=corpus, queries="all", rerank_top=3)).summary
    assert two["first_stage"] == {direction: one[direction] for direction in ("t2v", "v2t")}
    best = search(SearchArgs(corpus=corpus, query="a", top=3)).summary["results"]
    reranked = search(SearchArgs(corpus=corpus, query="a", top=3, rerank_top=3)).summary["results"]
    assert {result["uid"] for result in best} == {result["uid"] for result in reranked}
    assert np.all(np.diff([result["score"] for result in reranked]) <= 0)
