import hashlib

import numpy as np
import pytest

from fpig_core.preprocess import Preprocess
from pipelines import storage, synthetic_world
from pipelines.annotations import read_caption_table
from pipelines.decode import decode_frames
from pipelines.images import decode_image
from pipelines.quarantine import SampleError
from pipelines.synthetic import World, encode, make_clip, plan_clips, write_world
from pipelines.synthetic_captions import describe, stills
from pipelines.synthetic_stills import Stills, draw_batch, write_stills
from pipelines.synthetic_world import COLOURS, SHAPES, TEXTURES, Thing, make_scene, render

TINY = World(num_train=4, num_val=2, num_test=3, num_corrupt=2, size=32, num_frames=6, seed=5)


def scene_of(*things):
    return synthetic_world.Scene(things=things, background_seed=1)


def test_scenes_and_films_are_functions_of_the_seed():
    first, second, other = (make_scene(np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert first == second != other
    film = render(first, size=32, num_frames=4)
    assert film.shape == (4, 32, 32, 3)
    assert film.dtype == np.uint8
    np.testing.assert_array_equal(film, render(second, size=32, num_frames=4))


def drawn(thing, num_frames=9):
    """bool [F, H, W]: the pixels that an object alone changes."""
    empty = thing._replace(event="blinks")
    hidden = render(scene_of(empty), size=64, num_frames=2)[1]
    film = render(scene_of(thing), size=64, num_frames=num_frames)
    return np.abs(film.astype(int) - hidden.astype(int)).max(axis=-1) > 60


@pytest.mark.parametrize("shape", SHAPES)
def test_events_happen(shape):
    def act(event):
        pixels = drawn(Thing(shape, "red", "big", "plain", event, 0.5, 0.5))
        area = pixels.sum(axis=(1, 2))
        y, x = (np.array([np.nonzero(frame)[axis].mean() if frame.any() else 0 for frame in pixels]) for axis in (0, 1))
        return area, x, y

    area, x, y = act("still")
    assert np.ptp(x) < 1.5
    assert np.ptp(y) < 1.5
    assert act("moves left")[1][0] - act("moves left")[1][-1] > 15
    assert act("moves right")[1][-1] - act("moves right")[1][0] > 15
    assert act("moves up")[2][0] - act("moves up")[2][-1] > 15
    assert act("moves down")[2][-1] - act("moves down")[2][0] > 15
    assert act("grows")[0][-1] > 2 * act("grows")[0][0]
    assert act("shrinks")[0][0] > 2 * act("shrinks")[0][-1]
    assert act("appears")[0][0] < area[0] / 10 < act("appears")[0][-1]
    assert act("disappears")[0][-1] < area[0] / 10 < act("disappears")[0][0]
    assert 0 < (act("blinks")[0] < area[0] / 10).sum() < 9


def test_sizes_differ_and_objects_stay_apart():
    area = {
        size: drawn(Thing("circle", "yellow", size, "plain", "still", 0.5, 0.5))[0].sum() for size in ("small", "big")
    }
    assert area["big"] > 2.5 * area["small"]
    rng = np.random.default_rng(0)
    radius = rng.uniform(0.1, 0.2, (500, 2))
    x, y = synthetic_world.place(rng, radius)
    apart = np.hypot(np.diff(x), np.diff(y))[:, 0] > radius.sum(axis=1)
    assert apart.mean() > 0.95
    assert (np.minimum(x, 1 - x) >= radius).all()
    assert (np.minimum(y, 1 - y) >= radius).all()


def test_complete_captions_tell_two_objects_apart_from_all_others():
    rng = np.random.default_rng(0)
    scenes = [make_scene(rng) for _ in range(200)]
    captions = [describe(scene, rng, complete=True) for scene in scenes]
    assert len(set(captions)) == 200
    for scene, caption in zip(scenes, captions, strict=True):
        assert all(thing.colour in caption for thing in scene.things[:2])
    assert 0.6 < np.mean([len(scene.things) == 2 for scene in scenes]) < 0.95


def test_stills_show_what_is_told():
    pictures, captions = stills(np.random.default_rng(0), 300, 32)
    assert pictures.shape == (300, 3, 32, 32)
    assert pictures.dtype == np.uint8
    assert len(captions) == 300
    again, _ = stills(np.random.default_rng(0), 300, 32)
    np.testing.assert_array_equal(pictures, again)
    told = " ".join(captions).split()
    assert {*COLOURS, *TEXTURES, "circle", "cross", "small", "big"} <= set(told)
    red = [("red" in c, (p[0] > 170) & (p[1] < 90) & (p[2] < 90)) for p, c in zip(pictures, captions, strict=True)]
    assert np.mean([pixels.sum() > 5 for is_told, pixels in red if is_told]) > 0.95
    assert np.mean([pixels.sum() > 5 for is_told, pixels in red if not is_told]) < 0.25


def test_films_survive_their_encoding():
    film = render(make_scene(np.random.default_rng(1)), size=96, num_frames=12)
    data = encode(film)
    assert data == encode(film)
    got = decode_frames(data, suffix="mp4", preprocess=Preprocess(num_frames=12, size=96))
    assert np.abs(got.transpose(0, 2, 3, 1).astype(int) - film).mean() < 12


def test_captions_of_the_test_split_are_nearly_unique():
    world = World(num_train=20, num_val=0, num_test=200, num_corrupt=0)
    told = {split: [] for split in ("train", "test")}
    for clip in plan_clips(world):
        told[clip.split].append(make_clip(world, clip)[1])
    assert all(1 <= len(captions) <= 2 for captions in told["test"])
    assert all(3 <= len(captions) <= 5 for captions in told["train"])
    captions = [caption for captions in told["test"] for caption in captions]
    assert len(set(captions)) > 0.97 * len(captions)


def content(folder):
    return {str(p.relative_to(folder)): hashlib.md5(p.read_bytes()).hexdigest() for p in folder.rglob("*.*")}  # noqa: S324


def test_a_world_is_written_once_continued_and_reproduced(tmp_path):
    steps = []
    assert write_world(str(tmp_path / "a"), TINY, num_workers=1, progress=lambda *step: steps.append(step))
    assert steps[-1] == (11, 11)
    whole = content(tmp_path / "a")
    assert not write_world(str(tmp_path / "a"), TINY)

    (tmp_path / "a/captions.csv").unlink()
    (tmp_path / "a/videos/val-00001.mp4").unlink()
    assert write_world(str(tmp_path / "a"), TINY, num_workers=2)
    assert content(tmp_path / "a") == whole

    with pytest.raises(ValueError, match="another folder"):
        write_world(str(tmp_path / "a"), World(seed=1))

    table = read_caption_table(str(tmp_path / "a/captions.csv"))
    assert table.problems == []
    assert len(table.records) == 11
    codes = []
    for record in table.records:
        data = storage.read_bytes(str(tmp_path / "a/videos" / record.path))
        try:
            decode_frames(data, suffix="mp4", preprocess=Preprocess(num_frames=2, size=16))
        except SampleError as error:
            codes.append((record.video_id, error.code))
    assert codes == [("test-cut-00000", "bad_container"), ("test-empty-00001", "no_stream")]


def test_stills_are_written_once_continued_and_reproduced(tmp_path):
    plan, steps = Stills(count=300, size=16, seed=5), []
    assert write_stills(str(tmp_path / "a"), plan, num_workers=1, progress=lambda *step: steps.append(step))
    assert steps == [(256, 300), (300, 300)]
    whole = content(tmp_path / "a")
    assert len(whole) == 302
    assert not write_stills(str(tmp_path / "a"), plan)

    (tmp_path / "a/stills.csv").unlink()
    (tmp_path / "a/stills/val-still-000009.jpg").unlink()
    assert write_stills(str(tmp_path / "a"), plan, num_workers=2)
    assert content(tmp_path / "a") == whole
    with pytest.raises(ValueError, match="another folder"):
        write_stills(str(tmp_path / "a"), Stills(count=300, size=16, seed=6))

    table = read_caption_table(str(tmp_path / "a/stills.csv"))
    assert table.problems == []
    assert [record.split for record in table.records].count("val") == 30
    drawn_stills = [*draw_batch(plan, 0), *draw_batch(plan, 256)]
    assert [(r.path, r.captions) for r in table.records] == [(row.video, (row.caption,)) for row, _ in drawn_stills]
    data = storage.read_bytes(str(tmp_path / "a/stills" / table.records[7].path))
    (got,) = decode_image(data, suffix="jpg", preprocess=Preprocess(num_frames=1, size=16))
    assert np.abs(got.astype(int) - drawn_stills[7][1]).mean() < 8


def test_stills_differ_from_seed_to_seed_and_from_those_of_pretraining():
    plan = Stills(count=20, size=16)
    told = [row.caption for row, _ in draw_batch(plan, 0)]
    assert told != [row.caption for row, _ in draw_batch(Stills(count=20, size=16, seed=1), 0)]
    assert all(told != stills(np.random.default_rng([0, number]), 20, 16)[1] for number in range(8))


@pytest.mark.parametrize("settings", [{"count": 9}, {"count": 10, "size": 8}, {"count": 10, "seed": -1}])
def test_stills_are_checked(settings):
    with pytest.raises(ValueError, match="wanted"):
        Stills(**settings)


@pytest.mark.parametrize("settings", [{"num_train": -1}, {"size": 33}, {"num_frames": 0}])
def test_worlds_are_checked(settings):
    with pytest.raises(ValueError, match="wanted"):
        World(**settings)
