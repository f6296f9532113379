"""The plan: every sample once an epoch, whatever the sizes, and nothing but the experiment decides the order."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fpig_core.schedule import Schedule
from pipelines.permutation import derive_key, permute
from pipelines.plan import EMPTY, Plan, Shuffle

SIZES = st.fixed_dictionaries(
    {
        "num_train": st.integers(1, 400),
        "num_val": st.integers(0, 60),
        "global_batch": st.integers(1, 48),
        "epochs": st.integers(1, 3),
    }
)
SHUFFLES = st.tuples(st.integers(1, 20), st.integers(0, 100)).map(lambda t: Shuffle(chunk=t[0], window=t[0] + t[1]))


def make_plan(sizes: dict[str, int], shuffle: Shuffle, seed: int = 7) -> Plan:
    return Plan(schedule=Schedule(**sizes), seed=seed, digest="digest", shuffle=shuffle)


@given(st.integers(1, 2000), st.integers(0, 2**64 - 1))
def test_a_permutation_hits_every_number_once(size: int, key: int) -> None:
    assert np.array_equal(np.sort(permute(np.arange(size), size, key)), np.arange(size))


def test_a_permutation_needs_no_array_of_its_size() -> None:
    size = 10**9
    image = permute(np.arange(size - 1000, size), size, derive_key("seed", 3))
    assert len(set(image.tolist())) == 1000
    assert image.min() >= 0
    assert image.max() < size


@given(SIZES, SHUFFLES)
def test_every_sample_once_an_epoch(sizes: dict[str, int], shuffle: Shuffle) -> None:
    plan = make_plan(sizes, shuffle)
    seen: dict[tuple[int, str], list[int]] = {}
    for batch in range(plan.schedule.num_batches):
        place = plan.schedule.place(batch)
        samples = plan.samples(batch)
        assert len(samples) == plan.schedule.global_batch
        seen.setdefault((place.epoch, place.phase), []).extend(samples[samples != EMPTY].tolist())
    for epoch in range(sizes["epochs"]):
        assert sorted(seen[epoch, "train"]) == list(range(sizes["num_train"]))
        assert seen.get((epoch, "val"), []) == list(range(sizes["num_val"]))


@given(SIZES, SHUFFLES)
def test_only_the_last_batch_of_a_phase_has_empty_slots(sizes: dict[str, int], shuffle: Shuffle) -> None:
    plan = make_plan(sizes, shuffle)
    schedule = plan.schedule
    for batch in range(schedule.num_batches):
        place = schedule.place(batch)
        last = schedule.train_batches - 1 if place.phase == "train" else schedule.val_batches - 1
        samples = plan.samples(batch)
        if place.index != last:
            assert EMPTY not in samples
        else:
            filled = int((samples != EMPTY).sum())
            assert filled >= 1
            assert EMPTY not in samples[:filled]


@given(SIZES)
def test_the_schedule_agrees_with_a_walk_through_the_run(sizes: dict[str, int]) -> None:
    schedule = Schedule(**sizes)
    batch = steps = 0
    for epoch in range(sizes["epochs"]):
        for phase, count in (("train", schedule.train_batches), ("val", schedule.val_batches)):
            for index in range(count):
                assert schedule.place(batch) == (epoch, phase, index)
                assert schedule.steps_before(batch) == steps
                steps += phase == "train"
                batch += 1
                assert schedule.ends_epoch(batch - 1) == (batch % schedule.epoch_batches == 0)
    assert (batch, steps) == (schedule.num_batches, schedule.num_steps)


def test_epochs_seeds_and_datasets_differ() -> None:
    sizes = {"num_train": 300, "num_val": 0, "global_batch": 300, "epochs": 2}
    base = make_plan(sizes, Shuffle(chunk=4, window=64))
    others = [
        base.samples(1),
        make_plan(sizes, Shuffle(chunk=4, window=64), seed=8).samples(0),
        Plan(schedule=base.schedule, seed=7, digest="another", shuffle=base.shuffle).samples(0),
    ]
    for other in others:
        assert np.mean(base.samples(0) == other) < 0.1


def test_neighbours_on_storage_are_seldom_neighbours_in_a_batch() -> None:
    plan = make_plan({"num_train": 20_000, "num_val": 0, "global_batch": 128, "epochs": 1}, Shuffle())
    adjacent = sum(int((np.diff(np.sort(plan.samples(batch))) == 1).sum()) for batch in range(100))
    assert adjacent / (100 * 128) < 0.06


def test_a_visit_draws_the_same_numbers_again() -> None:
    plan = make_plan({"num_train": 10, "num_val": 0, "global_batch": 5, "epochs": 1}, Shuffle())
    draws = {(epoch, uid): plan.sample_rng(epoch, uid).integers(2**40) for epoch in range(3) for uid in "abc"}
    assert len(set(draws.values())) == 9
    assert all(plan.sample_rng(*visit).integers(2**40) == value for visit, value in draws.items())
