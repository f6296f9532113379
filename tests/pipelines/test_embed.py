"""Every sample of a manifest ends in exactly one part or one quarantine file, whatever happened on the way."""

import contextlib
import dataclasses
import io
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import ray
import torch
from ray.exceptions import RayTaskError

from benchmarks.clips import write_copies
from benchmarks.embed_faults import SETTINGS as FAULTS
from benchmarks.embed_faults import killed_once
from fpig_core.bundle import load_bundle
from pipelines import STREAM_ENV
from pipelines import embed as embed_module
from pipelines.corpus import read_columns, read_corpus
from pipelines.decode import decode_frames
from pipelines.embed import (
    EmbedSettings,
    batches_ahead,
    build_stream,
    committed,
    embed_parts,
    finish_embedding,
    plan_embedding,
)
from pipelines.manifest import load_manifest
from pipelines.part_files import Tally
from pipelines.parts import read_table
from pipelines.turns import take_turns
from pipelines.verify import verify_corpus
from tests.test_layers import ROOT
from tests.worlds import PREPROCESS, video_bytes, write_model, write_shards

# Shards of 8 and of 5 videos: batches and parts are filled up.
SETTINGS = EmbedSettings(
    part_rows=12,
    batch_size=4,
    dtype="float32",
    num_actors=2,
    cpus_per_actor=1.5,
    extra_columns=("selected_tokens", "vector_unfused", "pseudo_query"),
)
ONE_ACTOR = dataclasses.replace(SETTINGS, num_actors=1)
FLAWS = {3: "bad_container", 8: "no_video", 9: "changed_bytes", 20: "bad_container"}
NUM_ROWS = 21
FAST = video_bytes(0)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Folder with shards that hold every kind of flaw, and a model."""
    root = tmp_path_factory.mktemp("world")
    write_shards(root / "shards", NUM_ROWS, flaws=FLAWS)
    write_model(root / "model")
    return root


def plan_for(world, out, settings=SETTINGS):
    manifest = load_manifest(str(world / "shards"))
    return plan_embedding(manifest, model_url=str(world / "model"), out_url=str(out), settings=settings)


def embed(world, out, settings=SETTINGS):
    plan = plan_for(world, out, settings)
    counts = list(embed_parts(plan, settings))
    return finish_embedding(plan, Tally(plan.parts, counts), lineage={}), counts


@pytest.fixture(scope="module")
def undisturbed(world, ray_local):
    embed(world, world / "corpus")
    return world / "corpus"


def bytes_of(corpus):
    return {file.name: file.read_bytes() for file in Path(corpus).rglob("*.parquet")}


def slow_vectors(world, column):
    """One video at a time through the model, in file order."""
    model = load_bundle(world / "model").model
    vectors = []
    for number in range(NUM_ROWS):
        if number not in FLAWS:
            frames = decode_frames(video_bytes(number), suffix="mp4", preprocess=PREPROCESS)
            with torch.inference_mode():
                vectors.append(model.columns(model.encode_video(torch.from_numpy(frames)[None]))[column][0].numpy())
    return np.stack(vectors)


@pytest.mark.parametrize("column", ["vector", "vector_unfused", "pseudo_query"])
def test_each_video_becomes_its_own_vector(world, undisturbed, column):
    corpus = read_corpus(str(undisturbed), column=column)
    assert corpus.video_ids == [f"video{number}" for number in range(NUM_ROWS) if number not in FLAWS]
    np.testing.assert_allclose(corpus.vectors, slow_vectors(world, column), atol=1e-4)


def test_columns_keep_their_shape_and_kind(world, undisturbed):
    columns = {column.name: column for column in plan_for(world, undisturbed).spec.columns}
    assert list(columns) == ["vector", "vector_unfused", "pseudo_query", "selected_tokens"]
    kept = read_columns(str(undisturbed), ["selected_tokens"])["selected_tokens"]
    assert kept.shape == (NUM_ROWS - len(FLAWS), *columns["selected_tokens"].shape)
    assert kept.dtype == np.int32
    np.testing.assert_array_equal(np.sort(kept), np.sort(slow_vectors(world, "selected_tokens")))


def test_the_corpus_is_complete_and_sound(world, undisturbed):
    report = verify_corpus(str(undisturbed), load_manifest(str(world / "shards")))
    assert report.problems == ()
    assert (report.num_embedded, report.num_rejected) == (NUM_ROWS - len(FLAWS), len(FLAWS))


def test_rejected_samples_tell_why(undisturbed):
    rows = [row for file in (undisturbed / "quarantine").iterdir() for row in read_table(str(file)).to_pylist()]
    assert {int(row["key"]): (row["stage"], row["reason"]) for row in rows} == {
        3: ("decode", "bad_container"),
        8: ("index", "no_video"),
        9: ("read", "changed_bytes"),
        20: ("decode", "bad_container"),
    }


def test_a_rerun_has_nothing_to_do(world, undisturbed):
    plan = plan_for(world, undisturbed)
    assert not plan.missing
    meta = committed(plan)
    assert meta
    assert meta["num_rejected"] == len(FLAWS)
    assert list(embed_parts(plan, SETTINGS)) == []


def test_a_rerun_does_what_is_missing_and_nothing_else(world, undisturbed, tmp_path):
    """Killed between the two files of a part: the quarantine file is there, the part is not."""
    corpus = shutil.copytree(undisturbed, tmp_path / "corpus")
    lost = plan_for(world, corpus).parts[1]
    Path(lost.url(str(corpus))).unlink()
    assert committed(plan_for(world, corpus)) is None
    meta, counts = embed(world, corpus, ONE_ACTOR)
    assert [count.name for count in counts] == [lost.name]
    assert meta["rejected"] == {"bad_container": 2, "changed_bytes": 1, "no_video": 1}
    assert bytes_of(corpus) == bytes_of(undisturbed)


def test_a_late_writer_leaves_what_is_there(world, undisturbed, tmp_path, monkeypatch):
    """A plan made before another run finished meets its parts: they stay as they are. It takes two streams here."""
    monkeypatch.setattr(embed_module, "STREAM_PARTS", 2)
    corpus = tmp_path / "corpus"
    early = plan_for(world, corpus)
    shutil.copytree(undisturbed, corpus)
    times = {file: file.stat().st_mtime_ns for file in corpus.rglob("*.parquet")}
    counts = list(embed_parts(early, ONE_ACTOR))
    assert [count.num_rejected for count in counts] == [1, 2, 1]
    assert times == {file: file.stat().st_mtime_ns for file in corpus.rglob("*.parquet")}


def test_decoding_stays_out_of_the_model_actors(world, ray_local, tmp_path):
    shown = io.StringIO()
    with take_turns() as turns, contextlib.redirect_stdout(shown):
        build_stream(plan_for(world, tmp_path), SETTINGS, turns).explain()
    physical = shown.getvalue().split("Physical Plan (Optimized)")[1]
    assert "TaskPoolMapOperator[MapBatches(decode_batch)]" in physical
    assert "ActorPoolMapOperator[MapBatches(EncodeVideos)]" in physical
    assert "TaskPoolMapOperator[MapBatches(write_part)]" in physical


@pytest.mark.slow
def test_without_preserved_order_no_wrong_part_is_written(world, ray_local, tmp_path):
    """Negative control: the first batch is slow to decode, so without order another one takes its place."""
    slow = [video_bytes(number, num_frames=300, size=256) for number in range(SETTINGS.batch_size)]
    write_shards(tmp_path / "shards", 24, film=lambda number: slow[number] if number < len(slow) else FAST)
    manifest = load_manifest(str(tmp_path / "shards"))
    plan = plan_embedding(manifest, model_url=str(world / "model"), out_url=str(tmp_path / "corpus"), settings=SETTINGS)
    with take_turns() as turns:
        turns.allow(plan.missing.num_batches(SETTINGS.batch_size))
        stream = build_stream(plan, SETTINGS, turns, preserve_order=False)
        with pytest.raises(RayTaskError, match="are not the rows of a part"):
            stream.materialize()


def test_a_corpus_of_another_model_is_refused(world, undisturbed, tmp_path):
    write_model(tmp_path / "other", seed=1)
    manifest = load_manifest(str(world / "shards"))
    with pytest.raises(ValueError, match=r"was made with model_id=.* give another output folder"):
        plan_embedding(manifest, model_url=str(tmp_path / "other"), out_url=str(undisturbed), settings=SETTINGS)


def test_a_column_that_the_model_does_not_offer_is_refused(world, tmp_path):
    settings = dataclasses.replace(SETTINGS, extra_columns=("patch_vectors",))
    with pytest.raises(ValueError, match=r"'patch_vectors'; this model offers vector, .*selected_tokens"):
        plan_for(world, tmp_path / "corpus", settings)
    assert not (tmp_path / "corpus").exists()


def test_work_on_empty_places_is_told(world, tmp_path):
    """8, 8 and 5 videos take 2, 2 and 2 batches of 4, and 2, 2 and 1 of 6."""
    assert plan_for(world, tmp_path).padding(4) == pytest.approx(1 - 21 / 24)
    assert plan_for(world, tmp_path).padding(6) == pytest.approx(1 - 21 / 30)


def test_auto_precision_goes_by_the_device():
    assert EmbedSettings().model_precision == "fp32"
    assert EmbedSettings(gpus_per_actor=0.5).model_precision == "bf16"
    assert EmbedSettings(gpus_per_actor=1, precision="fp32").model_precision == "fp32"


def test_a_corpus_begun_on_cpus_is_not_finished_in_half_precision(world, undisturbed):
    gpu = dataclasses.replace(SETTINGS, gpus_per_actor=1.0)
    with pytest.raises(ValueError, match=r"was made with precision='fp32', this request has precision='bf16'; give"):
        plan_for(world, undisturbed, gpu)
    assert not plan_for(world, undisturbed, dataclasses.replace(gpu, precision="fp32")).missing


def test_settings_that_cannot_work_are_refused():
    with pytest.raises(ValueError, match="use part_rows=258"):
        EmbedSettings(part_rows=256, batch_size=6)
    with pytest.raises(ValueError, match="must differ"):
        EmbedSettings(cpus_per_actor=1.0)


def test_what_is_on_its_way_goes_by_the_room_for_decoding(ray_local):
    """8 CPUs: without two actors of 1.5 there are 5 decoders; a part has 3 batches."""
    assert batches_ahead(SETTINGS) == 2 * (5 + 2 + 3)
    assert batches_ahead(dataclasses.replace(SETTINGS, cpus_per_decoder=0.5)) == 2 * (10 + 2 + 3)


DRIVER = """
import sys
import ray
from pathlib import Path
from tests.pipelines.test_embed import embed, SETTINGS
ray.init(sys.argv[3], log_to_driver=False)
embed(Path(sys.argv[1]), Path(sys.argv[2]))
"""


@pytest.mark.slow
def test_a_killed_driver_loses_and_doubles_nothing(world, undisturbed, tmp_path):
    address = ray.get_runtime_context().gcs_address
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(world), str(tmp_path), address], cwd=ROOT)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("parts/*.parquet")):
        assert driver.poll() is None, "the driver ended before its first part"
        assert time.monotonic() < deadline
        time.sleep(0.001)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    assert not (tmp_path / "_COMMITTED.json").exists()
    embed(world, tmp_path)
    assert verify_corpus(str(tmp_path), load_manifest(str(world / "shards"))).problems == ()
    assert bytes_of(tmp_path) == bytes_of(undisturbed)


@pytest.mark.slow
def test_a_killed_driver_costs_no_more_than_was_on_its_way(world, ray_local, tmp_path):
    num_videos = 400
    manifest = write_copies(tmp_path / "videos", FAST, num=num_videos)
    repeated = killed_once(tmp_path, manifest, world / "model", share=0.5)
    assert repeated.num_wrong == 0
    assert repeated.bytes_by_rerun == pytest.approx(0)
    on_its_way = FAULTS.batch_size * batches_ahead(FAULTS)
    assert on_its_way < num_videos / 2
    assert repeated.bytes_again * num_videos <= on_its_way


@pytest.mark.slow
def test_a_killed_job_leaves_its_cpus_soon():
    """Ray Data reads the variable when it is imported, which must not be before ``pipelines`` is."""
    place, kind = "ray.data._internal.cluster_autoscaler.rate_based_cluster_autoscaler", "RateBasedClusterAutoscaler"
    code = f"import jobs.embed_corpus\nfrom {place} import {kind}\nprint({kind}.AUTOSCALING_REQUEST_EXPIRE_TIME_S)"
    env = {name: value for name, value in os.environ.items() if name not in STREAM_ENV}
    told = subprocess.check_output([sys.executable, "-c", code], env=env, cwd=ROOT, text=True)
    assert told.split()[-1:] == list(STREAM_ENV.values())
