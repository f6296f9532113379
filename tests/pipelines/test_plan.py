"""The plan: every sample once an epoch, whatever the sizes, and nothing but the experiment decides the order."""

import numpy as np
import pytest
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


@pytest.mark.parametrize(("chunk", "window", "global_batch"), [(16, 8192, 128), (16, 1024, 64), (4, 512, 64)])
def test_neighbours_on_storage_share_a_batch_as_rarely_as_in_a_random_window(chunk, window, global_batch) -> None:
    """Of two neighbours the second is in the first one's batch of G at a rate of (1 - 1/chunk) · G/window.

    A random permutation of all N gives G/N: the plan mixes as if the window were the whole set.
    """
    size = 20_480
    sizes = {"num_train": size, "num_val": 0, "global_batch": global_batch, "epochs": 1}
    plan = make_plan(sizes, Shuffle(chunk=chunk, window=window))
    batches = [plan.samples(batch) for batch in range(size // global_batch)]
    random = np.random.default_rng(0).permutation(size).reshape(-1, global_batch)
    expected = (1 - 1 / chunk) * global_batch / window
    assert 0.8 * expected < shared_rate(batches) < 1.2 * expected + global_batch / size
    assert 0.5 * global_batch / size < shared_rate(list(random)) < 1.5 * global_batch / size
    # Nor do they stand side by side: slots are as free as batches.
    beside = np.mean([np.mean(np.abs(np.diff(batch)) == 1) for batch in batches])
    assert beside < 4 / window + 4 / size


def shared_rate(batches: list[np.ndarray]) -> float:
    """How often the next sample on storage is in the same batch."""
    return float(np.mean([(np.diff(np.sort(batch)) == 1).sum() / len(batch) for batch in batches]))


def uneven(count: np.ndarray) -> tuple[float, float]:
    """Of counts [place, image] over as many permutations as a row sums up to: chi-square by its mean, and how far the
    probabilities are off 1/size, as a part of it (root of the mean square, without what chance adds).
    """
    size, expected = len(count), count.sum() / count.size
    chi_square, freedom = ((count - expected) ** 2 / expected).sum(), (size - 1) ** 2
    return chi_square / freedom, np.sqrt(max(0.0, chi_square - freedom) / count.sum())


@pytest.mark.parametrize("size", [16, 31, 64])
def test_a_permutation_sends_each_place_everywhere_equally_often(size: int) -> None:
    assert uneven(images(size))[0] < 1.25


@pytest.mark.parametrize("size", [3, 5, 8, 12])
def test_a_permutation_of_a_handful_is_a_little_uneven(size: int) -> None:
    """Four rounds over one or two bits a half do not mix fully: below 16 some places are likelier than others."""
    assert uneven(images(size))[1] < 0.2


def images(size: int) -> np.ndarray:
    """How often each place [size] goes to each [size] under 600 permutations."""
    count = np.zeros((size, size))
    for number in range(600):
        count[np.arange(size), permute(np.arange(size), size, derive_key("quality", number))] += 1
    return count


def test_a_caption_is_drawn_by_seed_epoch_and_uid_alone_and_each_about_equally_often() -> None:
    small, large = (
        make_plan({"num_train": 9, "num_val": 0, "global_batch": batch, "epochs": 1}, Shuffle()) for batch in (2, 8)
    )
    num_captions, num_epochs = 5, 1500
    for uid in ("a", "b"):
        drawn = [int(small.sample_rng(epoch, uid).integers(num_captions)) for epoch in range(num_epochs)]
        assert drawn[:50] == [int(large.sample_rng(epoch, uid).integers(num_captions)) for epoch in range(50)]
        expected = num_epochs / num_captions
        count = np.bincount(drawn, minlength=num_captions)
        assert ((count - expected) ** 2 / expected).sum() < 18.5  # 4 degrees of freedom: one in a thousand


def test_a_visit_draws_the_same_numbers_again() -> None:
    plan = make_plan({"num_train": 10, "num_val": 0, "global_batch": 5, "epochs": 1}, Shuffle())
    draws = {(epoch, uid): plan.sample_rng(epoch, uid).integers(2**40) for epoch in range(3) for uid in "abc"}
    assert len(set(draws.values())) == 9
    assert all(plan.sample_rng(*visit).integers(2**40) == value for visit, value in draws.items())
