"""Training streams and embeddings take cached frames, and sets without digests, as they take indexed videos."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fpig_core.schedule import Schedule
from jobs import cache_frames, embed_corpus, index_shards, verify_corpus
from jobs.cli import DONE
from pipelines.corpus import read_corpus
from pipelines.frame_cache import FrameStore, require_fitting
from pipelines.manifest import load_manifest
from pipelines.plan import Plan, Shuffle
from pipelines.stream import StreamSource, make_stream
from tests.shards import make_shards
from tests.worlds import PREPROCESS, write_model

NUM_TRAIN, NUM_VAL = 10, 6
STORE = FrameStore(num_frames=PREPROCESS.num_frames, size=PREPROCESS.size)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Shard sets in ``shards``; the same without digests in ``bare``, and as frames in ``frames``."""
    root = tmp_path_factory.mktemp("inputs")
    for name in ("shards", "bare"):
        make_shards(root / "world", str(root / name), train=NUM_TRAIN, val=NUM_VAL)
    assert (
        index_shards.main(index_shards.Args(root=str(root / "bare"), digest="none", incremental=False)).exit_code
        == DONE
    )
    for phase in ("train", "val"):
        out = str(root / "frames" / phase)
        args = cache_frames.Args(manifest=str(root / "shards" / phase), out=out, store=STORE)
        assert cache_frames.main(args).exit_code == DONE
    write_model(root / "model")
    return root


def samples_of(folder: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """What an epoch of training and validation gives of each sample, through Ray: (phase, uid) -> its columns."""
    train, val = load_manifest(str(folder / "train")), load_manifest(str(folder / "val"))
    for manifest in (train, val):
        require_fitting(manifest, PREPROCESS)
    schedule = Schedule(num_train=train.num_captioned, num_val=val.num_captioned, global_batch=4, epochs=1)
    plan = Plan(schedule=schedule, seed=1, digest=train.digest, shuffle=Shuffle(chunk=2, window=4))
    source = StreamSource(plan=plan, preprocess=PREPROCESS, manifests={"train": train, "val": val})
    found = {}
    stream: Any = make_stream(source, first_batch=0)
    for row in stream.iter_rows():
        if row["uid"]:
            place = schedule.place(int(row["batch"])).phase, row["uid"]
            assert place not in found
            found[place] = row
    return found


def test_the_sets_are_what_they_should_be(root):
    assert set(load_manifest(str(root / "bare/train")).table["sha256"].to_pylist()) == {""}
    assert all(load_manifest(str(root / "shards/train")).table["sha256"].to_pylist())
    assert set(load_manifest(str(root / "frames/train")).table["video_suffix"].to_pylist()) == {"frames"}


def test_training_streams_give_the_same_samples(ray_local, root):
    wanted = samples_of(root / "shards")
    assert [sum(phase == each for phase, _ in wanted) for each in ("train", "val")] == [NUM_TRAIN, NUM_VAL]
    for name in ("bare", "frames"):
        got = samples_of(root / name)
        assert got.keys() == wanted.keys()
        for (phase, uid), row in got.items():
            oracle = wanted[phase, uid]
            assert (row["ok"], row["reason"], row["caption"]) == (True, "", oracle["caption"])
            # Training's jitter chooses among the stored frames alone.
            if name == "bare" or phase == "val":
                np.testing.assert_array_equal(row["frames"], oracle["frames"])
            else:
                assert row["frames"].shape == oracle["frames"].shape
                assert row["frames"].any()


def test_embeddings_give_the_same_vectors(ray_local, root):
    vectors = []
    for name in ("bare", "frames"):
        shards, out = str(root / name / "val"), str(root / name / "corpus")
        args = embed_corpus.Args(model=str(root / "model"), manifest=shards, out=out, tracking="none")
        settings = dataclasses.replace(args.settings, part_rows=8, batch_size=8, dtype="float32")
        assert embed_corpus.main(dataclasses.replace(args, settings=settings)).exit_code == DONE
        assert verify_corpus.main(verify_corpus.Args(corpus=args.out)).exit_code == DONE
        corpus = read_corpus(args.out)
        assert len(corpus.video_ids) == NUM_VAL
        vectors.append(dict(zip(corpus.video_ids, corpus.vectors, strict=True)))
    of_videos, of_frames = vectors
    assert of_frames.keys() == of_videos.keys()
    for video_id, wanted in of_videos.items():
        np.testing.assert_allclose(of_frames[video_id], wanted, atol=1e-5)
