import json
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fpig_core.frames import jittered_indices, uniform_indices
from fpig_core.preprocess import Preprocess
from pipelines.decode import decode_sample
from pipelines.frame_cache import FrameStore
from pipelines.frame_file import pack_frames, unpack_frames
from pipelines.quarantine import SampleError

SIZE = 16


def frames(count, *, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 3, SIZE, SIZE), dtype=np.uint8)


def pack(frame_F3HW, **options):
    return pack_frames(frame_F3HW, **{"codec": "raw", "resize_mode": "squash", **options})


@settings(max_examples=200, deadline=None)
@given(num_available=st.integers(1, 2000), num_frames=st.integers(1, 40), density=st.sampled_from([1, 2, 4, 8]))
def test_uniform_sampling_of_the_stored_frames_is_that_of_the_video(num_available, num_frames, density):
    store = FrameStore(num_frames=num_frames, density=density)
    stored = uniform_indices(num_available, store.preprocess.num_frames)
    again = stored[uniform_indices(len(stored), num_frames)]
    np.testing.assert_array_equal(again, uniform_indices(num_available, num_frames))


@pytest.mark.parametrize("num_stored", [1, 4, 9, 23])
def test_raw_frames_come_back_as_they_were(num_stored):
    video, preprocess = frames(num_stored), Preprocess(num_frames=5, size=SIZE)
    data = pack(video)
    assert data == pack(video)
    got = unpack_frames(data, preprocess=preprocess)
    assert got.flags.c_contiguous
    np.testing.assert_array_equal(got, video[uniform_indices(num_stored, 5)])
    for seed in range(5):
        got = unpack_frames(data, preprocess=preprocess, rng=np.random.default_rng(seed))
        np.testing.assert_array_equal(got, video[jittered_indices(num_stored, 5, np.random.default_rng(seed))])


def test_jitter_reaches_frames_that_uniform_sampling_does_not():
    data = pack(frames(9))
    drawn = {
        unpack_frames(data, preprocess=Preprocess(num_frames=5, size=SIZE), rng=np.random.default_rng(seed)).tobytes()
        for seed in range(60)
    }
    assert len(drawn) == 9


def test_equal_neighbours_are_stored_once():
    video = frames(3)[[0, 0, 0, 1, 2, 2, 0]]
    data = pack(video)
    assert len(data) < 4 * 3 * SIZE * SIZE + 300
    np.testing.assert_array_equal(unpack_frames(data, preprocess=Preprocess(num_frames=7, size=SIZE)), video)


def test_jpeg_is_near():
    y, x = np.mgrid[0:64, 0:64]
    video = np.stack([np.stack([2 * x + n, 3 * y, 255 - x - y]) for n in range(7)]).clip(0, 255).astype(np.uint8)
    preprocess = Preprocess(num_frames=7, size=64)
    got = unpack_frames(pack(video, codec="jpeg"), preprocess=preprocess)
    assert np.abs(got.astype(int) - video).mean() < 2
    assert len(pack(video, codec="jpeg")) < len(pack(video)) / 4


def test_a_sample_of_stored_frames_is_dispatched_by_its_suffix():
    video = frames(5)
    record = {"video_suffix": "frames", "start_s": 7.0, "end_s": 8.0}
    got = decode_sample(record, pack(video), preprocess=Preprocess(num_frames=5, size=SIZE))
    np.testing.assert_array_equal(got, video)


def with_header(**changes):
    data = pack(frames(3))
    length = struct.unpack("<I", data[8:12])[0]
    header = json.dumps(json.loads(data[12 : 12 + length]) | changes).encode()
    return data[:8] + struct.pack("<I", len(header)) + header + data[12 + length :]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"FPIGFRM1",
        b"FPIGFRM1\xff\xff\xff\xff{}",
        b"garbage" * 99,
        pack(frames(3))[:-1],
        pack(frames(3)) + b"\0",
        pack(frames(3), codec="jpeg").replace(b"\xff\xd8", b"\0\0"),
        with_header(lengths=[1 << 40]),
        with_header(lengths=[-1, 1, 2]),
        with_header(lengths=None),
        with_header(lengths=[10, 768, 1526]),
        with_header(shown=[]),
        with_header(shown=[0, 3]),
        with_header(shown=["0"]),
        with_header(size="16"),
        with_header(size=10**9),
        with_header(codec="pickle"),
        with_header(codec="jpeg"),
        with_header(resize_mode=1),
    ],
)
def test_damaged_bytes_are_told(data):
    with pytest.raises(SampleError) as caught:
        unpack_frames(data, preprocess=Preprocess(num_frames=3, size=SIZE))
    assert caught.value.code == "bad_frames"


@pytest.mark.parametrize("other", [{"size": 32}, {"resize_mode": "shortest"}])
def test_frames_for_other_models_are_told(other):
    with pytest.raises(SampleError, match="the model wants"):
        unpack_frames(pack(frames(3)), preprocess=Preprocess(**{"num_frames": 3, "size": SIZE, **other}))
