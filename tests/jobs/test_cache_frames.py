"""A cached shard set stands for the videos: the same samples, the same frames, the same vectors."""

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
import torch

from fpig_core.bundle import load_bundle
from fpig_core.frames import jittered_indices
from fpig_core.preprocess import Preprocess
from jobs import cache_frames
from jobs.cli import DONE, OVER_BUDGET
from pipelines.decode import decode_sample
from pipelines.embed import EmbedSettings, plan_embedding
from pipelines.frame_cache import FrameStore, require_fitting
from pipelines.indexing import index_shards
from pipelines.manifest import load_manifest
from pipelines.quarantine import SampleError
from tests.rows import videos_of_rows
from tests.worlds import PREPROCESS, video_bytes, write_model, write_shards

NUM_ROWS = 10
FLAWS = {2: "bad_container", 5: "no_video"}
STORE = FrameStore(num_frames=PREPROCESS.num_frames, size=PREPROCESS.size)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("cache")
    write_shards(root / "shards", NUM_ROWS, flaws=FLAWS, film=lambda number: video_bytes(number, num_frames=20))
    write_model(root / "model")
    for codec in ("raw", "jpeg"):
        assert cache_frames.main(cache(root, codec)).exit_code == OVER_BUDGET
    return root


def cache(root, codec, **options):
    args = cache_frames.Args(
        manifest=str(root / "shards"), out=str(root / codec), store=dataclasses.replace(STORE, codec=codec)
    )
    return dataclasses.replace(args, **options)


def frames_of(root, name, **options):
    """Frames or reason code by uid, each with a generator of its own."""
    manifest, result = load_manifest(str(root / name)), {}
    records = manifest.table.to_pylist()
    for record, data in zip(records, videos_of_rows(manifest, range(manifest.num_rows)), strict=True):
        try:
            result[record["uid"]] = decode_sample(record, data, preprocess=PREPROCESS, **options)
        except SampleError as error:
            result[record["uid"]] = error.code
    return result


def test_every_row_keeps_its_place_its_uid_and_its_captions(root):
    source, cached = (load_manifest(str(root / name)).table.to_pylist() for name in ("shards", "raw"))
    kept = ("uid", "shard", "key", "video_id", "captions")
    assert [[row[name] for name in kept] for row in cached] == [[row[name] for name in kept] for row in source]
    assert [row["status"] for row in cached] == [FLAWS.get(number, "ok") for number in range(NUM_ROWS)]
    assert {row["video_suffix"] for row in cached} == {"frames", ""}


def test_the_manifest_is_the_one_of_index_shards_and_the_rejected_rows(root):
    wanted = load_manifest(str(root / "raw")).table.to_pylist()
    before = (root / "raw/manifest.parquet").read_bytes()
    index_shards(str(root / "raw"))
    indexed = load_manifest(str(root / "raw")).table.to_pylist()
    (root / "raw/manifest.parquet").write_bytes(before)
    assert [row for row in wanted if row["status"] == "ok"] == indexed


def test_raw_frames_are_those_of_the_videos(root):
    wanted, got = frames_of(root, "shards"), frames_of(root, "raw")
    assert list(got) == list(wanted)
    for uid, frame_F3HW in wanted.items():
        np.testing.assert_array_equal(got[uid], frame_F3HW)


def test_jitter_draws_from_the_stored_frames(root):
    num_stored = STORE.preprocess.num_frames
    manifest = load_manifest(str(root / "shards"))
    (record,) = manifest.table.slice(0, 1).to_pylist()
    (data,) = videos_of_rows(manifest, [0])
    stored_F3HW = decode_sample(record, data, preprocess=STORE.preprocess)
    for seed in range(5):
        got = frames_of(root, "raw", rng=np.random.default_rng(seed))[record["uid"]]
        numbers = jittered_indices(num_stored, PREPROCESS.num_frames, np.random.default_rng(seed))
        np.testing.assert_array_equal(got, stored_F3HW[numbers])


@pytest.mark.parametrize(("codec", "least"), [("raw", 0.99999), ("jpeg", 0.99)])
def test_vectors_of_stored_frames_are_near_those_of_the_videos(root, codec, least):
    model: Any = load_bundle(root / "model").model
    vectors = []
    for name in ("shards", codec):
        frames = [value for value in frames_of(root, name).values() if not isinstance(value, str)]
        with torch.inference_mode():
            vector_BD = model.encode_video(torch.from_numpy(np.stack(frames))).fused_BD
        vectors.append(torch.nn.functional.normalize(vector_BD, dim=-1))
    cosine_B = (vectors[0] * vectors[1]).sum(dim=-1)
    assert len(cosine_B) == NUM_ROWS - len(FLAWS)
    assert cosine_B.min() >= least


def test_a_rerun_writes_nothing_and_the_budget_can_allow_what_is_lost(root):
    before = {path: path.stat().st_mtime_ns for path in (root / "raw").rglob("*.tar")}
    report = cache_frames.main(cache(root, "raw", max_rejected="20%"))
    assert (report.exit_code, report.summary["note"]) == (DONE, "already there")
    assert (report.summary["num_stored"], report.summary["num_rejected"]) == (8, 2)
    assert before == {path: path.stat().st_mtime_ns for path in (root / "raw").rglob("*.tar")}
    json.dumps(report.summary)


def test_a_model_that_sees_other_pictures_is_refused_at_the_start(root):
    manifest = load_manifest(str(root / "raw"))
    require_fitting(manifest, PREPROCESS)
    require_fitting(load_manifest(str(root / "shards")), Preprocess(size=999))
    with pytest.raises(ValueError, match=r"cache_frames .*--size 999"):
        require_fitting(manifest, Preprocess(size=999))
    places = {"model_url": str(root / "model"), "out_url": str(root / "corpus")}
    assert plan_embedding(manifest, **places, settings=EmbedSettings()).num_missing == NUM_ROWS


def test_the_videos_are_never_overwritten(root):
    with pytest.raises(ValueError, match="choose another folder"):
        cache_frames.main(cache(root, "raw", out=str(root / "shards")))
    with pytest.raises(ValueError, match="other inputs or settings"):
        cache_frames.main(cache(root, "jpeg", out=str(root / "raw")))
