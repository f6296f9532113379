"""Other tools read a corpus's parts as they are, and its exports row by row the same."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from jobs.export_corpus import Args, main
from pipelines.corpus import read_corpus
from tests import corpora
from tests.worlds import caption_of, write_corpus, write_shards

NUM_ROWS, REJECTED = 11, (3, 4)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """With the captions that an export takes along."""
    root = tmp_path_factory.mktemp("corpus")
    manifest = write_shards(root / "shards", NUM_ROWS, film=lambda number: b"x")
    vectors = np.random.default_rng(0).standard_normal((NUM_ROWS, 12)).astype(np.float32)
    write_corpus(str(root / "corpus"), manifest, vectors, model_id="m" * 16, model="", rejected=REJECTED)
    return str(root / "corpus")


@pytest.fixture(scope="module", params=["float16", "float32"])
def parts(request, tmp_path_factory):
    """A corpus in either dtype, and with columns beside the vector."""
    url, manifest = str(tmp_path_factory.mktemp("parts")), corpora.make_manifest(10)
    corpora.write_corpus(url, corpora.make_spec(dtype=request.param, columns=corpora.WIDE), manifest)
    return url


def by_uid(uids, vectors):
    return {str(uid): np.asarray(vector, np.float32).tolist() for uid, vector in zip(uids, vectors, strict=True)}


def expected_of(url):
    read = read_corpus(url)
    return by_uid(read.uids, read.vectors)


def test_duckdb_reads_the_parts(parts):
    duckdb = pytest.importorskip("duckdb")
    files = {"parts": f"{parts}/parts/*.parquet"}
    rows = duckdb.sql("select uid, vector from read_parquet($parts)", params=files).fetchall()
    assert by_uid(*zip(*rows, strict=True)) == expected_of(parts)
    nearest = duckdb.sql(
        "select b.video_id from read_parquet($parts) a, read_parquet($parts) b where a.video_id = 'video6' "
        "order by list_inner_product(a.vector::float[], b.vector::float[]) desc limit 1",
        params=files,
    ).fetchall()
    assert nearest == [("video6",)]


def test_pandas_reads_the_parts(parts):
    pandas = pytest.importorskip("pandas")
    table = pandas.read_parquet(f"{parts}/parts")
    assert by_uid(table["uid"], table["vector"]) == expected_of(parts)


def test_polars_reads_the_parts(parts):
    polars = pytest.importorskip("polars")
    table = polars.read_parquet(f"{parts}/parts/*.parquet")
    assert by_uid(table["uid"], table["vector"].to_list()) == expected_of(parts)


def test_datasets_reads_the_parts(parts, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    files = sorted(str(path) for path in Path(parts, "parts").glob("*.parquet"))
    table = datasets.Dataset.from_parquet(files, cache_dir=str(tmp_path))
    assert by_uid(table["uid"], table["vector"]) == expected_of(parts)


@pytest.mark.parametrize(("rows_per_file", "names"), [(100, "0"), (4, "012"), (1, "012345678")])
def test_clip_retrieval_finds_its_layout(corpus, tmp_path, rows_per_file, names):
    summary = main(Args(corpus=corpus, out=str(tmp_path / "out"), rows_per_file=rows_per_file)).summary
    assert summary["num_files"] == 2 * len(names)
    found = {}
    for name in names:
        vectors = np.load(tmp_path / "out" / "img_emb" / f"img_emb_{name}.npy")
        metadata = pq.read_table(tmp_path / "out" / "metadata" / f"metadata_{name}.parquet")
        assert metadata.column_names[:2] == ["image_path", "caption"]
        found |= by_uid(metadata["uid"].to_pylist(), vectors)
        for row in metadata.to_pylist():
            assert row["image_path"] == f"{row['shard']}/{row['key']}"
            assert row["caption"] == caption_of(int(row["key"]))
    assert list(found.items()) == list(expected_of(corpus).items())


def test_lance_reads_its_dataset(corpus, tmp_path):
    expected = expected_of(corpus)
    lance = pytest.importorskip("lance")
    main(Args(corpus=corpus, out=str(tmp_path / "out.lance"), layout="lance", rows_per_file=4))
    dataset = lance.dataset(str(tmp_path / "out.lance"))
    table = dataset.to_table()
    assert by_uid(table["uid"].to_pylist(), table["vector"].to_pylist()) == expected
    assert table["captions"][0].as_py()[0] == caption_of(0)
    query = np.asarray(expected[table["uid"][5].as_py()], np.float32)
    nearest = dataset.to_table(nearest={"column": "vector", "q": query, "k": 1})
    assert nearest["uid"][0] == table["uid"][5]


def test_wrong_requests_are_refused(corpus, tmp_path):
    with pytest.raises(ValueError, match="there already"):
        main(Args(corpus=corpus, out=str(tmp_path)))
    with pytest.raises(ValueError, match="wanted a local folder"):
        main(Args(corpus=corpus, out="memory://out"))
    with pytest.raises(ValueError, match="rows_per_file=0"):
        main(Args(corpus=corpus, out=str(tmp_path / "a"), rows_per_file=0))
    assert not (tmp_path / "a").exists()
