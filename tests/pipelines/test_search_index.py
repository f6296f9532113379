"""An index is complete or invisible, finds what the corpus finds, and belongs to one model and one corpus."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from fpig_core.bundle import load_bundle
from fpig_core.index_kinds import Effort
from fpig_core.retrieval import encode_queries
from jobs.build_index import Args, main
from jobs.search import Args as SearchArgs
from jobs.search import main as search
from pipelines.filters import parse_condition
from pipelines.search_index import MARKER, open_index, read_marker
from pipelines.searcher import Searcher
from tests.worlds import caption_of, write_corpus, write_model, write_shards

NUM_ROWS, REJECTED = 13, (2, 9)
KEPT = [row for row in range(NUM_ROWS) if row not in REJECTED]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("world")
    model_id = write_model(root / "model")
    manifest = write_shards(root / "shards", NUM_ROWS)
    vectors = encode_queries(load_bundle(root / "model"), [caption_of(number) for number in range(NUM_ROWS)])
    write_corpus(
        str(root / "corpus"), manifest, vectors, model_id=model_id, model=str(root / "model"), rejected=REJECTED
    )
    table = {"video_id": [f"video{row}" for row in range(1, NUM_ROWS)], "seconds": np.arange(1, NUM_ROWS) * 1.5}
    pq.write_table(pa.table(table), root / "table.parquet")
    pa_csv.write_csv(pa.table(table), root / "table.csv")
    return root


@pytest.mark.parametrize("table", ["table.parquet", "table.csv"])
def test_an_index_answers_as_its_corpus(world, tmp_path, table):
    out, corpus = str(tmp_path / "index"), str(world / "corpus")
    summary = main(Args(corpus=corpus, out=out, metadata=str(world / table))).summary
    assert (summary["num_vectors"], summary["recall_at_10"]) == (len(KEPT), 1)
    bundle = load_bundle(world / "model")
    by_index, by_corpus = Searcher.open(out, bundle=bundle), Searcher.open(corpus, bundle=bundle)
    for found, expected in zip(by_index.search(["a", "b"], top=4), by_corpus.search(["a", "b"], top=4), strict=True):
        assert [each.uid for each in found] == [each.uid for each in expected]
        np.testing.assert_allclose([each.score for each in found], [each.score for each in expected], atol=1e-6)
    assert by_index.columns["seconds"] == "numbers"
    best = by_index.search(["a"], top=20, where=[parse_condition("seconds >= 9")])[0]
    assert sorted(int(each.key) for each in best) == [row for row in KEPT if row * 1.5 >= 9]
    assert all(each.metadata["seconds"] == int(each.key) * 1.5 for each in best)
    assert [each.uid for each in by_index.like("video4")] == [each.uid for each in by_corpus.like("video4")]


def test_a_new_version_takes_over_and_the_old_one_goes(world, tmp_path):
    out, corpus = tmp_path / "index", str(world / "corpus")
    main(Args(corpus=corpus, out=str(out)))
    before, opened = read_marker(str(out)), open_index(str(out))
    main(Args(corpus=corpus, out=str(out)))
    assert read_marker(str(out)) | {"ms_per_query": 0} == before | {"ms_per_query": 0}
    (out / ".draft-left-by-a-kill").mkdir()
    main(Args(corpus=corpus, out=str(out), metadata=str(world / "table.csv")))
    assert sorted(path.name for path in out.iterdir()) == sorted([MARKER, read_marker(str(out))["version"]])
    assert read_marker(str(out))["version"] != before["version"]
    assert opened.index.search(np.ones((1, 96), np.float32), 3)[1].shape == (1, 3)


def test_what_is_not_complete_is_refused_and_built_again(world, tmp_path):
    out, corpus = tmp_path / "index", str(world / "corpus")
    with pytest.raises(ValueError, match=r"no complete index at .*build_index"):
        open_index(str(out))
    main(Args(corpus=corpus, out=str(out)))
    vectors = out / read_marker(str(out))["version"] / "vectors.npy"
    vectors.write_bytes(vectors.read_bytes()[:-1])
    with pytest.raises(ValueError, match="is not what it was when it was built"):
        open_index(str(out))
    main(Args(corpus=corpus, out=str(out)))
    assert len(open_index(str(out)).index) == len(KEPT)
    (out / MARKER).write_text(json.dumps(read_marker(str(out)) | {"format": 0}))
    with pytest.raises(ValueError, match="format 0, wanted 2"):
        open_index(str(out))


@pytest.mark.parametrize("change", [{"version": "../../x"}, {"files": {"../../x": {"bytes": 1, "sha256": ""}}}])
def test_an_index_names_no_file_outside_of_it(world, tmp_path, change):
    out = tmp_path / "index"
    main(Args(corpus=str(world / "corpus"), out=str(out)))
    (out / MARKER).write_text(json.dumps(read_marker(str(out)) | change))
    with pytest.raises(ValueError, match="names files that no index has"):
        open_index(str(out))


def test_an_index_in_a_bucket_is_copied_once(world, tmp_path, s3_server):
    out = f"{s3_server}/index"
    main(Args(corpus=str(world / "corpus"), out=out))
    cache = tmp_path / "cache"
    rows = open_index(out, cache=str(cache)).rows
    copied = sorted(cache.rglob("vectors.npy"))
    assert len(copied) == 1
    before = copied[0].stat().st_mtime_ns
    assert open_index(out, cache=str(cache)).rows.equals(rows)
    assert copied[0].stat().st_mtime_ns == before


def test_an_index_belongs_to_one_model_and_one_corpus(world, tmp_path):
    out = str(tmp_path / "index")
    main(Args(corpus=str(world / "corpus"), out=out))
    write_model(tmp_path / "other", seed=1)
    with pytest.raises(ValueError, match="vectors of two models do not compare"):
        Searcher.open(out, bundle=load_bundle(tmp_path / "other"))
    with pytest.raises(ValueError, match="which embedded this corpus"):
        search(SearchArgs(index=out, query="a", model=str(tmp_path / "other")))
    assert search(SearchArgs(index=out, query=caption_of(4), top=1)).summary["results"][0]["video_id"] == "video4"
    with pytest.raises(ValueError, match="only one of both"):
        search(SearchArgs(index=out, corpus="corpus", query="a"))


def test_wrong_requests_are_refused(world, tmp_path):
    corpus, out = str(world / "corpus"), str(tmp_path / "index")
    tables = {
        "no_key.csv": ("a,b\n1,2\n", "wanted video_id among them"),
        "twice.csv": ("video_id,b\nvideo1,2\nvideo1,3\n", "more than once"),
        "taken.csv": ("video_id,key\nvideo1,2\n", "a column 'key' .* rename it"),
        "others.csv": ("video_id,b\nx,2\n", "names none of the 11 videos"),
        "broken.parquet": ("no", "no sound .parquet file"),
        "table.txt": ("a", "wanted .parquet, .csv or .tsv"),
    }
    for name, (text, message) in tables.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match=message):
            main(Args(corpus=corpus, out=out, metadata=str(tmp_path / name)))
    with pytest.raises(ValueError, match="got 11 vectors, wanted at least 256"):
        main(Args(corpus=corpus, out=out, kind="ivf"))
    with pytest.raises(ValueError, match="--min-recall 2"):
        Args(corpus=corpus, out=out, min_recall=2)
    assert not Path(out, MARKER).exists()


def test_an_effort_that_finds_too_little_makes_no_index(tmp_path, monkeypatch):
    """Codes of random vectors lose much: the request is refused, with the best that was reached."""
    num_rows = 300
    model_id = write_model(tmp_path / "model")
    manifest = write_shards(tmp_path / "shards", num_rows, film=lambda number: b"x")
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((num_rows, 96)).astype(np.float32)
    write_corpus(str(tmp_path / "corpus"), manifest, vectors, model_id=model_id, model=str(tmp_path / "model"))
    args = Args(corpus=str(tmp_path / "corpus"), out=str(tmp_path / "index"), kind="fastscan", queries="videos")
    monkeypatch.setattr("pipelines.search_index_build.ladder", lambda kind, num: [Effort(num_candidates=10)])
    with pytest.raises(ValueError, match=r"reached recall@10 0\.\d+ .* wanted 0.99; take another kind"):
        main(args)
    assert not (tmp_path / "index" / MARKER).exists()
    monkeypatch.undo()
    assert main(args).summary["recall_at_10"] >= 0.99
    assert (tmp_path / "index" / read_marker(args.out)["version"] / "first.faiss").exists()
