"""The training stream: the blocks each worker receives are those of the plan, in order, whatever the workers do."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from ray.data import DataIterator

from fpig_core.schedule import Phase, Schedule
from pipelines import stream
from pipelines.manifest import Manifest
from pipelines.plan import EMPTY, Plan, Shuffle
from pipelines.stream import NOT_A_SAMPLE, StreamSource, load_block, make_stream, share_stream
from tests.worlds import PREPROCESS, write_shards

NUM_TRAIN, NUM_VAL, GLOBAL_BATCH = 21, 5, 8
FLAWS = {4: "bad_container", 9: "no_video"}


@pytest.fixture(scope="module")
def source(ray_local, tmp_path_factory) -> StreamSource:
    """Two epochs over 21 videos of which one cannot be indexed and one cannot be decoded."""
    root: Path = tmp_path_factory.mktemp("world")
    train = write_shards(root / "train", NUM_TRAIN, flaws=FLAWS)
    val = write_shards(root / "val", NUM_VAL)
    schedule = Schedule(num_train=train.num_captioned, num_val=NUM_VAL, global_batch=GLOBAL_BATCH, epochs=2)
    plan = Plan(schedule=schedule, seed=1, digest=train.digest, shuffle=Shuffle(chunk=2, window=8))
    manifests: dict[Phase, Manifest] = {"train": train, "val": val}
    return StreamSource(plan=plan, preprocess=PREPROCESS, manifests=manifests)


def uids_by_slot(source: StreamSource) -> list[list[str]]:
    """The oracle: the uids of every batch, read off the plan."""
    batches = []
    for batch in range(source.plan.schedule.num_batches):
        manifest = source.manifests[source.plan.schedule.place(batch).phase]
        rows = manifest.table.to_pylist()
        captioned = [row["uid"] for row in rows if row["status"] == "ok" and row["captions"]]
        batches.append(["" if n == EMPTY else captioned[n] for n in source.plan.samples(batch)])
    return batches


def received(source: StreamSource, num_workers: int, *, first_batch: int = 0) -> list[list[dict]]:
    """The blocks that each of ``num_workers`` consumers takes from one stream."""
    source = dataclasses.replace(source, num_workers=num_workers)
    return consumed(make_stream(source, first_batch=first_batch).streaming_split(num_workers, equal=True))


def consumed(shares: Sequence[Any]) -> list[list[dict]]:
    @ray.remote(num_cpus=0)
    def consume(share: Any) -> list[dict]:
        keep = ("batch", "slot", "uid", "ok", "caption", "reason")
        whole: Any = None
        blocks = share.iter_batches(batch_size=whole) if isinstance(share, DataIterator) else share
        return [{name: block[name].tolist() for name in keep} for block in blocks]

    return ray.get([consume.remote(share) for share in shares])


@pytest.mark.parametrize("num_workers", [1, 2, 4])
def test_workers_receive_the_batches_of_the_plan_in_order(source, num_workers) -> None:
    wanted, rows = uids_by_slot(source), GLOBAL_BATCH // num_workers
    for rank, blocks in enumerate(received(source, num_workers)):
        slots = list(range(rank * rows, (rank + 1) * rows))
        assert [block["batch"] for block in blocks] == [[batch] * rows for batch in range(len(wanted))]
        assert all(block["slot"] == slots for block in blocks)
        assert [block["uid"] for block in blocks] == [batch[slots[0] : slots[-1] + 1] for batch in wanted]


def test_starting_later_is_skipping_what_came_before(source) -> None:
    whole, rest = received(source, 2), received(source, 2, first_batch=3)
    assert [blocks[3:] for blocks in whole] == rest
    assert received(source, 2, first_batch=source.plan.schedule.num_batches) == [[], []]


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [1, 2, 3, 4])
def test_segments_leave_no_mark(source, monkeypatch, num_workers) -> None:
    whole = received(source, num_workers)
    monkeypatch.setattr(stream, "SEGMENT_BLOCKS", 3 * num_workers)
    for first_batch in (0, 4):
        dealt = dataclasses.replace(source, num_workers=num_workers)
        with share_stream(dealt, first_batch=first_batch) as shares:
            assert consumed(shares) == [blocks[first_batch:] for blocks in whole]


def test_a_set_smaller_than_a_batch_starves_no_worker(source) -> None:
    """Going on with four workers where one stopped, three samples in four blocks of two."""
    schedule = Schedule(num_train=3, num_val=1, global_batch=GLOBAL_BATCH, epochs=2)
    tiny = dataclasses.replace(source, plan=dataclasses.replace(source.plan, schedule=schedule))
    wanted, dealt = uids_by_slot(tiny)[1:], received(tiny, 4, first_batch=1)
    assert [len(blocks) for blocks in dealt] == [len(wanted)] * 4 == [3] * 4
    assert [[uid for block in blocks for uid in block["uid"]] for blocks in zip(*dealt, strict=True)] == wanted


def test_what_cannot_be_used_keeps_its_slot(source) -> None:
    blocks = [load_block(source, number) for number in range(source.plan.schedule.num_batches)]
    reasons = [reason for block in blocks for reason in block["reason"]]
    empty_slots = sum(uid == "" for batch in uids_by_slot(source) for uid in batch)
    assert reasons.count("bad_container") == 2
    assert reasons.count(NOT_A_SAMPLE) == empty_slots
    for block in blocks:
        assert np.array_equal(block["ok"], block["reason"] == "")
        assert not block["frames"][~block["ok"]].any()
        assert block["frames"][block["ok"]].any(axis=(1, 2, 3, 4)).all()


def test_captions_are_drawn_in_training_and_fixed_in_validation(source) -> None:
    place = source.plan.schedule.place
    captions: dict[tuple[str, str], set[str]] = {}
    for number in range(source.plan.schedule.num_batches):
        block = load_block(source, number)
        assert all(np.array_equal(block[name], again) for name, again in load_block(source, number).items())
        for uid, caption in zip(block["uid"], block["caption"], strict=True):
            captions.setdefault((place(number).phase, uid), set()).add(caption)
    assert all(len(texts) == 1 for (phase, _), texts in captions.items() if phase == "val")
    assert any(len(texts) == 2 for (phase, _), texts in captions.items() if phase == "train")
