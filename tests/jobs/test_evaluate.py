"""Evaluation joins by id, says what it left out, and refuses what does not belong together."""

import dataclasses
import json

import numpy as np
import pyarrow as pa
import pytest

from fpig_core.bundle import load_bundle
from fpig_core.retrieval import encode_queries
from jobs.compare import Args as CompareArgs
from jobs.compare import main as compare
from jobs.evaluate import Args, main
from jobs.query_sets import choose_queries
from jobs.results import read_result
from pipelines.manifest import MANIFEST_SCHEMA, load_manifest, save_manifest
from tests.worlds import caption_of, write_corpus, write_model, write_shards

NUM_ROWS = 10
REJECTED = (2, 7)


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A corpus in which each video's vector is the text vector of its own first caption: every rank is 1."""
    monkeypatch.setattr("jobs.evaluate.NUM_TIMED", 1)
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


@pytest.mark.parametrize(
    ("protocol", "queries", "num_queries"),
    [("single", "first", 8), ("multi-sentence", "all", 16), ("paragraph", "paragraph", 8)],
)
def test_the_protocol_of_the_data_set_says_what_is_a_query(world, protocol, queries, num_queries):
    mark = {"dataset": "vatex", "protocol": protocol, "split": "test", "published_videos": 12, "num_to_write": 10}
    (world / "shards/_DATASET.json").write_text(json.dumps(mark))
    result = main(Args(corpus=str(world / "corpus"))).summary
    assert (result["queries"], result["num_queries"], result["dataset"]) == (queries, num_queries, mark)
    assert "vatex has 12 videos here, 10 were imported." in result["warnings"]
    assert not any("The protocol of" in warning for warning in result["warnings"])


def test_queries_against_the_protocol_are_warned_of(world):
    mark = {
        "dataset": "vatex",
        "protocol": "multi-sentence",
        "split": "test",
        "published_videos": 10,
        "num_to_write": 10,
    }
    (world / "shards/_DATASET.json").write_text(json.dumps(mark))
    told = "The protocol of vatex is multi-sentence (queries: all), these are queries: first."
    assert told in main(Args(corpus=str(world / "corpus"), queries="first")).summary["warnings"]


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


HOSTILE = "<script>alert(1)</script> \u202egpj.exe 👩‍🚀 \"'&"


def with_captions(world, captions):
    """The world's shard set and corpus with other captions."""
    rows = load_manifest(str(world / "shards")).table.to_pylist()
    table = pa.Table.from_pylist([row | {"captions": captions} for row in rows], schema=MANIFEST_SCHEMA)
    manifest = save_manifest(str(world / "shards"), table)
    bundle, vectors = load_bundle(world / "model"), np.eye(NUM_ROWS, 96, dtype=np.float32)
    url = str(world / "hostile")
    write_corpus(url, manifest, vectors, model_id=bundle.model_id, model=str(world / "model"))
    return url


def test_a_paragraph_is_one_query_of_all_captions(world):
    args = Args(corpus=str(world / "corpus"), queries="paragraph", json=str(world / "out.json"), report="none")
    result = main(args).summary
    assert result["num_queries"] == result["num_videos"] == 8
    manifest = load_manifest(str(world / "shards"))
    texts = choose_queries(manifest.table["uid"].to_pylist(), manifest, queries="paragraph").texts
    assert texts[3] == f"{caption_of(3)} video number 3"
    assert not (world / "out.html").exists()


def test_normalised_results_stand_beside_the_plain_one(world):
    manifest = write_shards(world / "train", 5)
    bundle = load_bundle(world / "model")
    vectors = encode_queries(bundle, [caption_of(number) for number in range(5)])
    bank = str(world / "bank")
    write_corpus(bank, manifest, vectors, model_id=bundle.model_id, model=str(world / "model"))
    args = Args(corpus=str(world / "corpus"), queries="all")
    plain = main(args).summary
    result = main(dataclasses.replace(args, normalisers=("dsl", "qb_norm"), bank=bank)).summary
    assert (result["t2v"], result["v2t"], result["normaliser"]) == (plain["t2v"], plain["v2t"], "none")
    assert list(result["normalised"]) == ["dsl(scale=100, bank=the test itself)", "qb_norm(scale=20, bank=train)"]
    assert sum("does not exist in live search" in warning for warning in result["warnings"]) == 2
    with pytest.raises(ValueError, match="no scores of all pairs"):
        dataclasses.replace(args, normalisers=("dsl",), rerank_top=5)
    with pytest.raises(ValueError, match="qb_norm and a bank go together"):
        dataclasses.replace(args, normalisers=("qb_norm",))
    write_model(world / "other", seed=1)
    other_id = load_bundle(world / "other").model_id
    write_corpus(str(world / "foreign"), manifest, vectors, model_id=other_id, model=str(world / "other"))
    with pytest.raises(ValueError, match="embed that set with this model"):
        main(dataclasses.replace(args, normalisers=("qb_norm",), bank=str(world / "foreign")))


def test_categories_come_from_a_table(world):
    (world / "kinds.csv").write_text("video_id,category\nvideo0,sport\nvideo1,sport\nvideo3,news\nnobody,news\n")
    args = Args(corpus=str(world / "corpus"), categories=str(world / "kinds.csv"))
    groups = {group["group"]: group["t2v_num"] for group in main(args).summary["breakdown"]["category"]}
    assert groups == {"(none)": 5, "sport": 2, "news": 1}
    videos = [{"video_id": "video0", "category": 3}, {"video_id": "video4"}]
    (world / "kinds.json").write_text(json.dumps({"videos": videos}))
    args = dataclasses.replace(args, categories=str(world / "kinds.json"))
    groups = {group["group"]: group["t2v_num"] for group in main(args).summary["breakdown"]["category"]}
    assert groups == {"(none)": 7, "3": 1}
    (world / "kinds.csv").write_text("video_id,category\nnobody,news\n")
    with pytest.raises(ValueError, match="none of a video of the corpus"):
        main(dataclasses.replace(args, categories=str(world / "kinds.csv")))


def test_the_report_shows_what_strangers_wrote_as_text(world):
    corpus = with_captions(world, [HOSTILE, "b"])
    out = str(world / "out.json")
    result = main(Args(corpus=corpus, json=out, examples=2)).summary
    page = (world / "out.html").read_text()
    assert result["num_ambiguous_queries"] == NUM_ROWS
    assert any("very text of a query about another video" in warning for warning in result["warnings"])
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; \u202egpj.exe 👩‍🚀 &quot;&#x27;&amp;</bdi>" in page
    assert page.count("data:image/jpeg;base64,") >= 2
    assert "http://" not in page
    assert "https://" not in page
    assert "did not keep are faded" in page


def test_a_report_without_videos_tells_why(world):
    for shard in (world / "shards").glob("*.tar"):
        shard.unlink()
    main(Args(corpus=str(world / "corpus"), report=str(world / "out.html"), examples=1))
    assert "No frames: " in (world / "out.html").read_text()


def test_two_evaluations_compare(world):
    args = Args(corpus=str(world / "corpus"), json=str(world / "a.json"), report="none")
    paths = []
    for name in ("a", "b"):
        summary = main(dataclasses.replace(args, json=str(world / f"{name}.json"))).summary
        (world / f"{name}.json").write_text(json.dumps(summary))
        paths.append(str(world / f"{name}.json"))
    summary = compare(CompareArgs(results=tuple(paths), resamples=20)).summary
    assert summary["differences"][0]["t2v"]["R@1"]["difference"] == 0
    assert [system["name"] for system in summary["systems"]][1].endswith("(2)")


@pytest.mark.slow
def test_runs_of_mlflow_compare_as_files_do(world, monkeypatch):
    monkeypatch.setenv("FPIG_SPOOL", str(world / "spool"))
    tracking = f"sqlite:///{world}/mlflow.db"
    run_id = main(Args(corpus=str(world / "corpus"), tracking=tracking)).summary["mlflow_run_id"]
    found = read_result(f"runs:/{run_id}", tracking=tracking)
    assert found.values["mlflow_run_id"] == run_id
    pair = CompareArgs(results=(f"runs:/{run_id}",) * 2, tracking=tracking, resamples=20)
    summary = compare(pair).summary
    assert summary["differences"][0]["t2v"]["R@1"]["p"] == 1
    assert summary["mlflow_run_id"]
    with pytest.raises(ValueError, match="no result at runs:/nothing"):
        read_result("runs:/nothing", tracking=tracking)
