"""Evaluation joins by id, says what it left out, and refuses what does not belong together."""

import json

import numpy as np
import pytest

from fpig_core.bundle import load_bundle
from jobs.evaluate import Args, main
from jobs.models import encode_queries
from pipelines.manifest import load_manifest
from tests.worlds import caption_of, write_corpus, write_model, write_shards

NUM_ROWS = 10
REJECTED = (2, 7)


@pytest.fixture
def world(tmp_path):
    """A corpus in which each video's vector is the text vector of its own first caption: every rank is 1."""
    model_id = write_model(tmp_path / "model")
    manifest = write_shards(tmp_path / "shards", NUM_ROWS)
    vectors = encode_queries(load_bundle(tmp_path / "model"), [caption_of(number) for number in range(NUM_ROWS)])
    corpus, model = str(tmp_path / "corpus"), str(tmp_path / "model")
    write_corpus(corpus, manifest, vectors, model_id=model_id, model=model, rejected=REJECTED)
    return tmp_path


def test_perfect_vectors_get_perfect_metrics(world):
    (world / "model" / "training.json").write_text(json.dumps({"select_on": "val"}))
    result = main(Args(corpus=str(world / "corpus"))).summary
    assert result["t2v"]["R@1"] == result["v2t"]["R@1"] == 100
    assert result["num_queries"] == result["num_videos"] == NUM_ROWS - len(REJECTED)
    assert result["num_videos_missing"] == len(REJECTED)
    assert result["chance_r1"] == 100 / 8
    assert (result["split"], result["select_on"], result["tie_rule"]) == ("shards", "val", "pessimistic")
    assert result["bytes_per_video"] > 96 * 4
    assert result["ms_per_query"] > 0


@pytest.mark.parametrize("select_on", ["val", "test"])
def test_weights_that_were_selected_on_a_test_set_say_so(world, capsys, select_on):
    val_digest = "another" if select_on == "test" else load_manifest(str(world / "shards")).digest
    (world / "model" / "training.json").write_text(json.dumps({"select_on": select_on, "val_digest": val_digest}))
    assert main(Args(corpus=str(world / "corpus"))).summary["select_on"] == "test"
    assert "selected on a test set" in capsys.readouterr().out


def test_all_captions_are_queries_of_their_own_video(world):
    result = main(Args(corpus=str(world / "corpus"), queries="all")).summary
    assert result["num_queries"] == 2 * result["num_captioned_videos"] == 16
    assert result["v2t"]["R@1"] == 100
    assert result["select_on"] == "unknown"


def test_constant_vectors_get_the_worst_rank(world):
    manifest = write_shards(world / "shards", NUM_ROWS)
    constant = np.zeros((NUM_ROWS, 96), np.float32)
    constant[:, 0] = 1
    model_id = load_bundle(world / "model").model_id
    write_corpus(str(world / "flat"), manifest, constant, model_id=model_id, model=str(world / "model"))
    assert main(Args(corpus=str(world / "flat"))).summary["t2v"]["MnR"] == NUM_ROWS


def test_another_model_is_refused(world):
    write_model(world / "other", seed=1)
    with pytest.raises(ValueError, match=r"got model .*, wanted .*, which embedded this corpus"):
        main(Args(corpus=str(world / "corpus"), model=str(world / "other")))


def test_another_manifest_is_refused(world):
    write_shards(world / "more", NUM_ROWS + 1)
    with pytest.raises(ValueError, match="from which the corpus was made"):
        main(Args(corpus=str(world / "corpus"), manifest=str(world / "more")))


def test_a_model_that_moved_is_asked_for(world):
    (world / "model").rename(world / "moved")
    with pytest.raises(ValueError, match="say with --model where"):
        main(Args(corpus=str(world / "corpus")))
    assert main(Args(corpus=str(world / "corpus"), model=str(world / "moved"))).summary["t2v"]["R@1"] == 100


def test_an_unfinished_corpus_is_refused(world):
    (world / "corpus" / "_COMMITTED.json").unlink()
    with pytest.raises(ValueError, match="an unfinished corpus"):
        main(Args(corpus=str(world / "corpus")))
