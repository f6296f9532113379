"""Blocks as a pure function of their number: batches do not depend on who asks for which block, or from where on."""

import functools
import uuid

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fpig_core.preprocess import Preprocess
from fpig_core.schedule import Schedule
from pipelines import stream
from pipelines.manifest import MANIFEST_SCHEMA, Manifest, save_manifest
from pipelines.plan import Plan, Shuffle
from pipelines.stream import StreamSource, load_block

NUM_CAPTIONS = 4
Slot = tuple[int, int, str, str]

RUNS = st.fixed_dictionaries(
    {
        "num_train": st.integers(1, 40),
        "num_val": st.integers(0, 6),
        "global_batch": st.sampled_from([4, 8, 12]),
        "epochs": st.integers(1, 3),
    }
)


@pytest.fixture(scope="module", autouse=True)
def no_videos():
    """Rows, captions and slots are real; videos are neither read nor decoded."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream, "read_videos", lambda _, rows, **__: [b""] * len(rows))
        patch.setattr(stream, "decode_guarded", lambda *_, **__: 0)
        yield


@functools.lru_cache(maxsize=64)
def make_manifest(num_rows: int) -> Manifest:
    """Every third row cannot be used, and does not count."""
    rows = []
    for number in range(num_rows):
        captions = [f"caption {caption} of {number}" for caption in range(NUM_CAPTIONS)]
        rows += [{"uid": f"sample{number}", "shard": "a.tar", "captions": captions, "status": "ok"}]
        rows += [{"uid": f"bad{number}", "shard": "a.tar", "captions": captions, "status": "bad_json"}] * (number % 3)
    return save_manifest(f"memory://{uuid.uuid4().hex}", pa.Table.from_pylist(rows, schema=MANIFEST_SCHEMA))


def make_source(run: dict[str, int], *, num_workers: int) -> StreamSource:
    schedule = Schedule(**run)
    return StreamSource(
        plan=Plan(schedule=schedule, seed=3, digest="digest", shuffle=Shuffle(chunk=2, window=7)),
        preprocess=Preprocess(num_frames=1, size=1),
        manifests={"train": make_manifest(run["num_train"]), "val": make_manifest(run["num_val"])},
        num_workers=num_workers,
    )


def received(source: StreamSource, num_workers: int, *, first_batch: int = 0) -> list[list[list[Slot]]]:
    """Blocks of each worker when those of the stream are dealt in turn; of each row (batch, slot, uid, caption)."""
    num_blocks = (source.plan.schedule.num_batches - first_batch) * num_workers
    dealt: list[list[list[Slot]]] = [[] for _ in range(num_workers)]
    for number in range(num_blocks):
        block = load_block(source, first_batch * num_workers + number)
        columns = (block[name].tolist() for name in ("batch", "slot", "uid", "caption"))
        dealt[number % num_workers].append(list(zip(*columns, strict=True)))
    return dealt


def batches(dealt: list[list[list[Slot]]], global_batch: int) -> list[list[Slot]]:
    """The global batches: what all workers hold at each step, without the slots that fill up uneven shares."""
    steps = [[slot for block in blocks for slot in block] for blocks in zip(*dealt, strict=True)]
    assert all(uid == "" for slots in steps for _, place, uid, _ in slots if place >= global_batch)
    return [[slot for slot in slots if slot[1] < global_batch] for slots in steps]


@settings(max_examples=25)
@given(RUNS, st.data())
def test_batches_are_the_same_for_any_workers_and_after_resuming_anywhere(run: dict[str, int], data) -> None:
    one = batches(received(make_source(run, num_workers=1), 1), run["global_batch"])
    assert [[(batch, slot) for batch, slot, *_ in slots] for slots in one] == [
        [(batch, slot) for slot in range(run["global_batch"])] for batch in range(Schedule(**run).num_batches)
    ]
    first = data.draw(st.integers(0, len(one)))
    for num_workers in (2, 3, 4):
        dealt = received(make_source(run, num_workers=num_workers), num_workers, first_batch=first)
        assert {len(blocks) for blocks in dealt} == {len(one) - first}, "a worker starves at the end"
        assert batches(dealt, run["global_batch"]) == one[first:]


@settings(max_examples=25)
@given(RUNS)
def test_each_uid_comes_once_an_epoch(run: dict[str, int]) -> None:
    source = make_source(run, num_workers=2)
    seen: dict[tuple[int, str], list[str]] = {}
    for slots in batches(received(source, 2), run["global_batch"]):
        for batch, _, uid, _ in slots:
            place = source.plan.schedule.place(batch)
            seen.setdefault((place.epoch, place.phase), []).extend([uid] if uid else [])
    for epoch in range(run["epochs"]):
        assert sorted(seen[epoch, "train"]) == sorted(f"sample{number}" for number in range(run["num_train"]))
        assert seen.get((epoch, "val"), []) == [f"sample{number}" for number in range(run["num_val"])]


def test_a_caption_is_that_of_the_epoch_and_the_uid_whatever_the_batch() -> None:
    run = {"num_train": 24, "num_val": 0, "epochs": 40}
    drawn: list[dict[tuple[int, str], str]] = []
    for global_batch, num_workers in ((4, 1), (8, 2), (12, 4)):
        source = make_source(run | {"global_batch": global_batch}, num_workers=num_workers)
        place = source.plan.schedule.place
        slots = [slot for batch in batches(received(source, num_workers), global_batch) for slot in batch]
        drawn.append({(place(batch).epoch, uid): caption for batch, _, uid, caption in slots if uid})
    assert len(drawn[0]) == 24 * 40
    assert drawn[0] == drawn[1] == drawn[2]
    number = np.array([int(caption.split()[1]) for caption in drawn[0].values()])
    assert np.bincount(number, minlength=NUM_CAPTIONS).min() > 0.8 * len(number) / NUM_CAPTIONS
    first, second = ([drawn[0][epoch, f"sample{n}"] for n in range(24)] for epoch in (0, 1))
    assert sum(a != b for a, b in zip(first, second, strict=True)) > 0
