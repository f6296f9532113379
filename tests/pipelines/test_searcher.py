"""A search gives what sorting the scores of all videos that meet the conditions gives."""

import numpy as np
import pytest

from fpig_core.bundle import load_bundle
from fpig_core.models import METHODS
from fpig_core.retrieval import encode_queries
from jobs.build_index import Args
from jobs.build_index import main as build_index
from pipelines import second_stage
from pipelines.corpus import ChangedError, manifest_of, read_committed
from pipelines.filters import parse_condition
from pipelines.searcher import Searcher
from tests.worlds import JUDGE, SHARD_ROWS, caption_of, write_corpus, write_judge, write_model, write_shards

NUM_ROWS, REJECTED = 11, (0, 5)
KEPT = [row for row in range(NUM_ROWS) if row not in REJECTED]
QUERIES = [caption_of(3), "a video"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("world")
    model_id = write_model(root / "model")
    manifest = write_shards(root / "shards", NUM_ROWS)
    bundle = load_bundle(root / "model")
    vectors = encode_queries(bundle, [caption_of(number) for number in range(NUM_ROWS)])
    write_corpus(str(root / "corpus"), manifest, vectors, model_id=model_id, model="", rejected=REJECTED)
    return str(root / "corpus"), bundle, vectors, manifest


def expected(query_D, vectors, rows, *, top):
    score = {row: float(vectors[row].astype(np.float64) @ query_D.astype(np.float64)) for row in rows}
    return sorted(rows, key=lambda row: -score[row])[:top]


@pytest.mark.parametrize("where", [(), ("key >= 000004", "video_id != video7"), ("video_id in video3,video8",)])
def test_results_are_those_of_sorting_all(world, where):
    url, bundle, vectors, manifest = world
    searcher = Searcher.open(url, bundle=bundle)
    conditions = [parse_condition(text) for text in where]
    rows = [row for row in KEPT if all(_holds(text, row) for text in where)]
    for found, query_D in zip(
        searcher.search(QUERIES, top=4, where=conditions), encode_queries(bundle, QUERIES), strict=True
    ):
        assert [each.video_id for each in found] == [f"video{row}" for row in expected(query_D, vectors, rows, top=4)]
        assert [each.rank for each in found] == list(range(1, len(found) + 1))
    first = found[0]
    sample = manifest.table.slice(int(first.key), 1).to_pylist()[0]
    assert (first.uid, first.shard, list(first.captions)) == (sample["uid"], sample["shard"], sample["captions"])
    assert first.metadata == {"video_bytes": sample["video_bytes"]}


def _holds(text, row):
    return {"key >= 000004": row >= 4, "video_id != video7": row != 7, "video_id in video3,video8": row in (3, 8)}[text]


def test_videos_like_one_leave_it_out(world):
    url, bundle, vectors, manifest = world
    searcher = Searcher.open(url, bundle=bundle)
    rows = [row for row in KEPT if row != 4]
    for name in ("video4", manifest.table["uid"][4].as_py()):
        found = searcher.like(name, top=3)
        assert [each.video_id for each in found] == [
            f"video{row}" for row in expected(vectors[4], vectors, rows, top=3)
        ]
    assert searcher.like("video4", where=[parse_condition("video_id == video4")]) == []
    assert len(searcher.like("video4", top=50)) == len(rows)


def test_conditions_that_none_meets_find_none(world):
    url, bundle, *_ = world
    searcher = Searcher.open(url, bundle=bundle)
    assert searcher.search(QUERIES, where=[parse_condition("video_id == nobody")]) == [[], []]
    assert searcher.search([]) == []
    assert len(searcher.search(["a"], top=100)[0]) == len(KEPT) == searcher.num_videos


def test_wrong_requests_are_refused(world, tmp_path):
    url, bundle, _, manifest = world
    searcher = Searcher.open(url, bundle=bundle)
    with pytest.raises(ValueError, match="empty query"):
        searcher.search([" "])
    with pytest.raises(ValueError, match="top=0"):
        searcher.search(["a"], top=0)
    with pytest.raises(ValueError, match="wanted 0, or at least top=10"):
        searcher.search(["a"], rerank_top=5)
    with pytest.raises(ValueError, match="reranks nothing"):
        searcher.search(["a"], rerank_top=20)
    with pytest.raises(ValueError, match=r"there are uid \(text\)"):
        searcher.search(["a"], where=[parse_condition("duration_s > 1")])
    with pytest.raises(ValueError, match="'video5', wanted the uid or video_id of one of the 9 videos"):
        searcher.like("video5")
    write_model(tmp_path / "other", seed=1)
    with pytest.raises(ValueError, match="vectors of two models do not compare"):
        Searcher.open(url, bundle=load_bundle(tmp_path / "other"))
    empty = str(tmp_path / "empty")
    write_corpus(
        empty,
        manifest,
        np.eye(NUM_ROWS, 96, dtype=np.float32),
        model_id=bundle.model_id,
        model="",
        rejected=tuple(range(NUM_ROWS)),
    )
    with pytest.raises(ValueError, match="holds no video"):
        Searcher.open(empty, bundle=bundle)


def test_a_set_that_is_indexed_again_leaves_its_corpus_as_it_was(tmp_path):
    """Shards were added, and are not embedded yet."""
    url, out = str(tmp_path / "corpus"), str(tmp_path / "index")
    model_id = write_model(tmp_path / "model")
    bundle = load_bundle(tmp_path / "model")
    vectors = encode_queries(bundle, [caption_of(number) for number in range(SHARD_ROWS)])
    before = write_shards(tmp_path / "shards", SHARD_ROWS)
    rows = before.table
    write_corpus(url, before, vectors, model_id=model_id, model=str(tmp_path / "model"))
    after = write_shards(tmp_path / "shards", 2 * SHARD_ROWS)
    assert manifest_of(url, read_committed(url)).table.equals(rows)
    assert manifest_of(url, read_committed(url)).root == before.root
    build_index(Args(corpus=url, out=out))
    for place in (url, out):
        found = Searcher.open(place, bundle=bundle).search([caption_of(3)], top=1)[0]
        assert [each.video_id for each in found] == ["video3"]
    with pytest.raises(ValueError, match=rf"got manifest {after.digest} .* wanted {before.digest}"):
        Searcher.open(url, bundle=bundle, manifest=after.url)


def test_a_second_stage_reads_within_its_bytes(tmp_path, monkeypatch):
    monkeypatch.setitem(METHODS, "judge", JUDGE)
    model_id = write_judge(tmp_path / "model")
    manifest = write_shards(tmp_path / "shards", NUM_ROWS)
    frames = np.random.default_rng(0).normal(size=(NUM_ROWS, 3, 96)).astype(np.float32)
    further, url = {"frame_vectors": frames}, str(tmp_path / "corpus")
    write_corpus(url, manifest, frames[:, 0], model_id=model_id, model=str(tmp_path / "model"), further=further)
    searcher = Searcher.open(url, bundle=load_bundle(tmp_path / "model"))
    whole = searcher.search(QUERIES, top=6, rerank_top=8)
    sizes, read = [], second_stage.read_columns

    def counted(*args, rows, meta):
        sizes.append(len(rows))
        return read(*args, rows=rows, meta=meta)

    monkeypatch.setattr(second_stage, "read_columns", counted)
    monkeypatch.setattr(second_stage, "MAX_BYTES", 3 * frames[0].nbytes)
    pieces = searcher.search(QUERIES, top=6, rerank_top=8)
    assert max(sizes) == 3
    assert len(sizes) > 1
    for one, other in zip(whole, pieces, strict=True):
        assert [each.key for each in one] == [each.key for each in other]
        assert [each.score for each in one] == pytest.approx([each.score for each in other])


def test_a_second_stage_holds_on_to_the_corpus_that_was_opened(tmp_path, monkeypatch):
    monkeypatch.setitem(METHODS, "judge", JUDGE)
    model, url, out = (str(tmp_path / name) for name in ("model", "corpus", "index"))
    model_id = write_judge(tmp_path / "model")
    frames = np.random.default_rng(0).normal(size=(2 * SHARD_ROWS, 3, 96)).astype(np.float32)

    def embed(num_rows):
        manifest = write_shards(tmp_path / "shards", num_rows)
        further = {"frame_vectors": frames[:num_rows]}
        write_corpus(url, manifest, frames[:num_rows, 0], model_id=model_id, model=model, further=further)

    embed(SHARD_ROWS)
    build_index(Args(corpus=url, out=out))
    bundle = load_bundle(model)
    over_corpus, over_index, unused = (Searcher.open(each, bundle=bundle) for each in (url, out, out))

    def found(searcher):
        return [each.key for each in searcher.search(QUERIES[:1], top=5, rerank_top=8)[0]]

    first = found(over_corpus)
    assert first == found(over_index) != [each.key for each in over_corpus.search(QUERIES[:1], top=5)[0]]
    embed(2 * SHARD_ROWS)
    assert first == found(over_corpus) == found(over_index) == found(unused)
    for part in (tmp_path / "corpus" / "parts").iterdir():
        part.unlink()
    with pytest.raises(ChangedError, match="is gone: the corpus has changed"):
        found(over_corpus)
