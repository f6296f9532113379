"""Reading, indexing, embedding and training from a failing store: every sample, or an error that names the object."""

import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from ray.exceptions import RayTaskError

from fpig_core.bundle import load_bundle
from fpig_core.schedule import Schedule
from pipelines import storage
from pipelines.corpus import read_corpus
from pipelines.decode import decode_frames
from pipelines.embed import EmbedSettings, embed_parts, finish_embedding, plan_embedding
from pipelines.indexing import IndexSettings, index_shards
from pipelines.manifest import load_manifest
from pipelines.part_files import Tally
from pipelines.plan import Plan, Shuffle
from pipelines.quarantine import SampleError
from pipelines.stream import StreamSource, load_block, make_stream
from pipelines.verify import verify_corpus
from tests import servers
from tests.fault_proxy import ALWAYS, FaultProxy, Rule
from tests.faults import Announced, Cut, Fault, Reset, Resized, Shifted, Silence, Status, Whole
from tests.rows import videos_of_rows
from tests.worlds import PREPROCESS, video_bytes, write_model, write_shards

NUM_ROWS = 20
FLAWS = {5: "bad_container", 9: "no_video"}
BUSY_AND_LOST = (Status(503, "SlowDown"), Reset(), Reset(after=700), Cut(after=700), Status(500))
WRONG = (Whole(), Shifted(by=512), Resized(by=-1), Resized(by=1), Announced(by=100))


def in_turn(key: str, *faults: Fault, method: str = "GET") -> list[Rule]:
    """Every request meets these faults one after the other, then the truth."""
    return [Rule(key=key, method=method, attempts=range(1), fault=fault) for fault in faults]


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """Shards with a manifest and a model, on this machine."""
    root = tmp_path_factory.mktemp("world")
    write_shards(root / "shards", NUM_ROWS, flaws=FLAWS)
    write_model(root / "model")
    return root


@pytest.fixture
def stored(world, faulty_s3) -> str:
    """The same in a bucket, in a folder of its own."""
    url = f"s3://{servers.BUCKET}/{uuid.uuid4().hex}"
    for file in (file for file in world.rglob("*") if file.is_file() and "corpus" not in str(file)):
        storage.upload(file, f"{url}/{file.relative_to(world)}")
    return url


def videos_of(url: str, **options: Any) -> list[Any]:
    """The videos of all rows, and the codes of those that are rejected."""
    found = videos_of_rows(load_manifest(url), range(NUM_ROWS), max_range_bytes=1 << 14, **options)
    return [video.code if isinstance(video, SampleError) else video for video in found]


@pytest.mark.parametrize("verify", ["header", "sha256"])
@pytest.mark.parametrize("faults", [BUSY_AND_LOST, WRONG, (Silence(),)], ids=["lost", "wrong", "silent"])
def test_every_video_is_read_whatever_passes(world, stored, faulty_s3, faults, verify):
    wanted = videos_of(str(world / "shards"), verify=verify)
    faulty_s3.rules = [*in_turn("*.tar", *faults), *in_turn("*.parquet", *faults)]
    assert videos_of(f"{stored}/shards", verify=verify) == wanted
    assert all(faulty_s3.met(type(fault)) for fault in faults)


@pytest.mark.parametrize(
    "fault", [Status(503, "SlowDown"), Cut(after=700), Resized(by=-1), Whole(), Silence()], ids=str
)
def test_an_outage_rejects_no_sample_and_names_its_shard(stored, faulty_s3, fault):
    faulty_s3.rules = [Rule(key="*/shard-000001.tar", attempts=ALWAYS, fault=fault)]
    seen = []
    with pytest.raises(ConnectionError, match=f"{stored}/shards/shard-000001.tar.*start the same command again"):
        seen.extend(videos_of_rows(load_manifest(f"{stored}/shards"), range(NUM_ROWS)))
    assert not [video for video in seen if isinstance(video, SampleError) and video.code not in FLAWS.values()]


def test_only_a_shard_that_is_shorter_gives_short_reads(world, stored, faulty_s3):
    wanted = videos_of(str(world / "shards"))
    url, data = f"{stored}/shards/shard-000001.tar", (world / "shards/shard-000001.tar").read_bytes()
    offset = load_manifest(str(world / "shards")).table["video_offset"].to_pylist()
    storage.write_bytes(url, data[: offset[12] + 10])
    faulty_s3.rules = in_turn("*.tar", *BUSY_AND_LOST)
    got = videos_of(f"{stored}/shards")
    assert [row for row in range(NUM_ROWS) if got[row] == "short_read"] == [12, 13, 14, 15]
    assert [got[row] for row in range(NUM_ROWS) if row not in range(12, 16)] == [*wanted[:12], *wanted[16:]]


def test_what_is_forbidden_names_the_object(stored, faulty_s3):
    for key, read in (("shards/shard-000002.tar", videos_of), ("shards/manifest.parquet", load_manifest)):
        faulty_s3.rules = [Rule(key=f"*/{key}", fault=Status(403, "AccessDenied"))]
        with pytest.raises(PermissionError, match="check the credentials") as caught:
            read(f"{stored}/shards")
        assert caught.value.filename == f"{stored}/{key}"


@pytest.mark.parametrize("digest", ["full", "none"])
@pytest.mark.parametrize("faults", [BUSY_AND_LOST, WRONG], ids=["lost", "wrong"])
def test_an_index_is_that_of_a_sound_store(stored, faulty_s3, digest, faults):
    settings = IndexSettings(digest=digest, incremental=False)
    wanted = index_shards(f"{stored}/shards", settings)
    faulty_s3.rules = [*in_turn("*.tar", *faults), *in_turn("", *BUSY_AND_LOST)]
    # Not even the manifest that is replaced may come through at once.
    faulty_s3.rules += in_turn("*.parquet", Status(503, "SlowDown"), Reset(), method="PUT")
    got = index_shards(f"{stored}/shards", settings)
    assert (got.digest, got.bad_shards, got.reasons) == (wanted.digest, wanted.bad_shards, wanted.reasons)
    assert load_manifest(f"{stored}/shards").digest == wanted.digest


@pytest.mark.parametrize("digest", ["full", "none"])
@pytest.mark.parametrize("fault", [Status(503, "SlowDown"), Resized(by=-1)], ids=str)
def test_an_outage_leaves_no_manifest_that_lacks_a_shard(stored, faulty_s3, digest, fault):
    url, before = f"{stored}/shards/manifest.parquet", storage.read_bytes(f"{stored}/shards/manifest.parquet")
    faulty_s3.rules = [Rule(key="*/shard-000001.tar", fault=fault)]
    with pytest.raises(ConnectionError, match=r"shard-000001\.tar"):
        index_shards(f"{stored}/shards", IndexSettings(digest=digest))
    assert storage.read_bytes(url) == before
    assert storage.list_files(f"{stored}/shards", suffix="shards.parquet") == []


def there(proxy: FaultProxy, call: Callable[[], Any]) -> Any:
    """``call`` as a Ray task, whose own tasks find the store too."""
    names = [name for name in os.environ if name.startswith("AWS_")]
    env = {name: os.environ[name] for name in names} | {"AWS_ENDPOINT_URL": proxy.url}
    return ray.get(ray.remote(num_cpus=0, runtime_env={"env_vars": env})(call).remote())


@pytest.mark.slow
def test_an_embedding_loses_nothing(ray_local, world, stored, faulty_s3):
    settings = EmbedSettings(part_rows=8, batch_size=4, dtype="float32", cpus_per_actor=1.5)

    def embed() -> dict[str, Any]:
        places = {"model_url": f"{stored}/model", "out_url": f"{stored}/corpus"}
        plan = plan_embedding(load_manifest(f"{stored}/shards"), **places, settings=settings)
        return finish_embedding(plan, Tally(plan.parts, embed_parts(plan, settings)), lineage={})

    faulty_s3.rules = [
        *in_turn("*.tar", Status(503, "SlowDown"), Reset(after=2000), Resized(by=-1)),
        *in_turn("*/model/*", Cut(after=100)),
        *in_turn("*/corpus/*", Status(503, "SlowDown"), Reset(), method="PUT"),
    ]
    there(faulty_s3, embed)
    # Three parts with three quarantine files, and the commit.
    assert faulty_s3.tries("*/corpus/*", method="PUT") == [3] * 7
    report = verify_corpus(f"{stored}/corpus", load_manifest(f"{stored}/shards"))
    assert (report.problems, report.num_embedded) == ((), NUM_ROWS - 2)
    assert report.rejected == dict.fromkeys(FLAWS.values(), 1)
    corpus = read_corpus(f"{stored}/corpus")
    assert corpus.video_ids == [f"video{number}" for number in range(NUM_ROWS) if number not in FLAWS]
    model: Any = load_bundle(world / "model").model
    for video_id, vector in zip(corpus.video_ids, corpus.vectors, strict=True):
        video = video_bytes(int(video_id.removeprefix("video")))
        frame_F3HW = decode_frames(video, suffix="mp4", preprocess=PREPROCESS)
        with torch.inference_mode():
            wanted_D = model.columns(model.encode_video(torch.from_numpy(frame_F3HW)[None]))["vector"][0].numpy()
        np.testing.assert_allclose(vector, wanted_D, atol=1e-4)


def test_a_training_stream_loses_nothing(ray_local, world, stored, faulty_s3):
    def source_of(url: str) -> StreamSource:
        train = load_manifest(url)
        schedule = Schedule(num_train=train.num_captioned, num_val=train.num_captioned, global_batch=8, epochs=1)
        plan = Plan(schedule=schedule, seed=1, digest=train.digest, shuffle=Shuffle(chunk=2, window=8))
        return StreamSource(plan=plan, preprocess=PREPROCESS, manifests={"train": train, "val": train}, num_workers=2)

    def blocks_of(url: str) -> list[dict[str, np.ndarray]]:
        blocks: Any = make_stream(source_of(url), first_batch=0).iter_batches(batch_size=None)
        return [{name: np.array(column) for name, column in block.items()} for block in blocks]

    local = source_of(str(world / "shards"))
    wanted = [load_block(local, block) for block in range(2 * local.plan.schedule.num_batches)]
    faulty_s3.rules = in_turn("*.tar", Status(503, "SlowDown"), Reset(after=2000), Whole())
    got = there(faulty_s3, lambda: blocks_of(f"{stored}/shards"))
    assert faulty_s3.met(Reset)
    assert len(got) == len(wanted)
    for block, oracle in zip(got, wanted, strict=True):
        assert block.keys() == oracle.keys()
        assert all(np.array_equal(block[name], oracle[name]) for name in oracle)

    faulty_s3.rules = [Rule(key="*/shard-000001.tar", fault=Status(403, "AccessDenied"))]
    with pytest.raises(RayTaskError, match=r"the store refuses .* check the credentials.*shard-000001\.tar"):
        there(faulty_s3, lambda: blocks_of(f"{stored}/shards"))
