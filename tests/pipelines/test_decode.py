import io
import pickle
import struct
from typing import Any

import av
import numpy as np
import pytest
from av.error import InvalidDataError
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fpig_core.frames import jittered_indices, uniform_indices
from fpig_core.preprocess import Preprocess
from pipelines import decode
from pipelines.decode import DEMUXERS, decode_frames, decode_sample
from pipelines.limits import VideoLimits
from pipelines.quarantine import SampleError
from pipelines.suffixes import VIDEO_SUFFIXES
from tests.pipelines.videos import all_frames, make_video, shrink

KINDS = [
    ("mp4", "mp4", "libx264"),
    ("mov", "mov", "libx264"),
    ("matroska", "mkv", "libx264"),
    ("webm", "webm", "libvpx"),
    ("avi", "avi", "mpeg4"),
]
SMALL = Preprocess(num_frames=5, size=16)


@pytest.mark.parametrize(("fmt", "suffix", "codec"), KINDS)
@pytest.mark.parametrize("num_frames", [1, 4, 27])
def test_equals_a_complete_decode(fmt, suffix, codec, num_frames):
    data = make_video(fmt=fmt, codec=codec, num_frames=num_frames, b_frames=0 if codec == "libvpx" else 2)
    frames, _ = all_frames(data)
    assert len(frames) == num_frames
    got = decode_frames(data, suffix=suffix, preprocess=SMALL)
    assert got.dtype == np.uint8
    assert got.flags.c_contiguous
    np.testing.assert_array_equal(got, shrink(frames, uniform_indices(num_frames, 5), 16))


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32), num_frames=st.integers(1, 40), gop=st.integers(1, 12), b_frames=st.integers(0, 3))
def test_jitter_follows_the_policy_and_the_generator(seed, num_frames, gop, b_frames):
    data = make_video(num_frames=num_frames, gop=gop, b_frames=b_frames)
    got = decode_frames(data, suffix="mp4", preprocess=SMALL, rng=np.random.default_rng(seed))
    numbers = jittered_indices(num_frames, 5, np.random.default_rng(seed))
    np.testing.assert_array_equal(got, shrink(all_frames(data)[0], numbers, 16))


@settings(max_examples=25, deadline=None)
@given(start=st.floats(0, 2.9), length=st.floats(0.01, 4), num=st.sampled_from([1, 5]))
def test_a_segment_shows_its_frames_only(start, length, num):
    frames, times = all_frames(DATA)
    got = decode_frames(
        DATA, suffix="mp4", preprocess=Preprocess(num_frames=num, size=16), start_s=start, end_s=start + length
    )
    inside = [n for n, time in enumerate(times) if start - 1e-6 <= time < start + length - 1e-6]
    on_screen = [max(n for n, time in enumerate(times) if time <= start + 1e-6)]
    numbers = np.array(inside or on_screen)
    np.testing.assert_array_equal(got, shrink(frames, numbers[uniform_indices(len(numbers), num)], 16))


DATA = make_video(num_frames=30)


def code_of(data, *, suffix="mp4", **options):
    with pytest.raises(SampleError) as caught:
        decode_frames(data, suffix=suffix, preprocess=SMALL, **options)
    assert caught.value.stage == "decode"
    return caught.value.code


def test_a_segment_after_the_end_is_told():
    assert code_of(DATA, start_s=3.2) == "empty_segment"


@pytest.mark.parametrize("suffix", VIDEO_SUFFIXES)
@pytest.mark.parametrize(
    "data",
    [b"", b"garbage" * 100, b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", b"ffconcat version 1.0\nfile /etc/passwd\n"],
)
def test_what_is_no_video_is_told_and_not_followed(data, suffix):
    assert code_of(data, suffix=suffix) in ("bad_container", "no_stream")


def test_the_suffix_decides_the_demuxer():
    assert set(DEMUXERS) == set(VIDEO_SUFFIXES)
    assert code_of(make_video(fmt="matroska"), suffix="mp4") == "bad_container"
    assert code_of(DATA, suffix="m3u8") == "bad_suffix"


def test_cut_videos_are_told():
    assert code_of(DATA[: len(DATA) // 2]) == "bad_container"
    mkv = make_video(fmt="matroska", num_frames=40, height=96, width=96)
    assert code_of(mkv[:200], suffix="mkv") in ("bad_container", "no_stream", "no_frames")


@pytest.mark.parametrize("codec", [b"encv", b"zzzz"])
def test_a_stream_that_nothing_can_decode_is_told(codec):
    assert code_of(DATA.replace(b"avc1", codec)) == "no_decoder"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ValueError("no such format"), "bad_stream"),
        (InvalidDataError(1, "bad"), "bad_stream"),
        (MemoryError(), "too_large"),
    ],
)
def test_frames_that_cannot_be_converted_are_told(monkeypatch, error, code):
    def fail(*_):
        raise error

    monkeypatch.setattr(decode, "_to_model_size", fail)
    assert code_of(DATA) == code


def test_a_sample_is_decoded_by_its_row_or_keeps_its_error():
    record = {"video_suffix": "mp4", "start_s": 1.0, "end_s": 2.0}
    wanted = decode_frames(DATA, suffix="mp4", preprocess=SMALL, start_s=1.0, end_s=2.0)
    np.testing.assert_array_equal(decode_sample(record, DATA, preprocess=SMALL), wanted)
    with pytest.raises(SampleError, match="short_read"):
        decode_sample(record, SampleError("short_read"), preprocess=SMALL)


def test_a_video_whose_data_ends_before_its_index_is_told():
    buffer = io.BytesIO(DATA)
    moov = buffer.getvalue().index(b"moov") - 4
    media, index = DATA[:moov], DATA[moov:]
    start = media.index(b"mdat") - 4
    half = start + (len(media) - start) // 2
    header = struct.pack(">I4s", half - start, b"mdat")
    assert code_of(media[:start] + header + media[start + 8 : half] + index) == "bad_stream"


def test_containers_without_frames_are_told():
    codes = []
    for fmt, codec in [("mp4", "libx264"), ("avi", "mpeg4"), ("matroska", "libx264")]:
        buffer = io.BytesIO()
        with av.open(buffer, "w", format=fmt) as container:
            stream: Any = container.add_stream(codec, rate=10)
            stream.width = stream.height = 32
            container.start_encoding()
        codes.append(code_of(buffer.getvalue(), suffix={"matroska": "mkv"}.get(fmt, fmt)))
    assert codes == ["no_stream", "no_frames", "bad_container"]


def test_a_sound_track_alone_is_told():
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert code_of(buffer.getvalue()) == "no_stream"


@pytest.mark.parametrize(
    "limits",
    [
        VideoLimits(max_bytes=100),
        VideoLimits(max_pixels=64 * 48 - 1),
        VideoLimits(max_frames=29),
        VideoLimits(max_seconds=2.0),
    ],
)
def test_limits_hold(limits):
    assert code_of(DATA, limits=limits) == "too_large"


@pytest.mark.parametrize(("matrix", "turns"), [((0, 1, -1, 0), 3), ((-1, 0, 0, -1), 2), ((0, -1, 1, 0), 1)])
def test_rotated_videos_are_shown_upright(matrix, turns):
    a, b, c, d = (value << 16 for value in matrix)
    track = DATA.index(b"tkhd") + 4
    at = DATA.index(struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30), track)
    rotated = DATA[:at] + struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30) + DATA[at + 36 :]
    frames = np.rot90(all_frames(DATA)[0], k=turns, axes=(1, 2))
    got = decode_frames(rotated, suffix="mp4", preprocess=SMALL)
    np.testing.assert_array_equal(got, shrink(frames, uniform_indices(30, 5), 16))


@pytest.mark.parametrize(("height", "width"), [(48, 64), (64, 48), (50, 50)])
def test_shortest_crops_the_centre(height, width):
    data = make_video(num_frames=3, height=height, width=width)
    got = decode_frames(data, suffix="mp4", preprocess=Preprocess(num_frames=1, size=24, resize_mode="shortest"))
    short = min(height, width)
    image = Image.fromarray(all_frames(data)[0][0])
    image = image.resize((24 * width // short, 24 * height // short), Image.Resampling.BICUBIC)
    left, top = (image.width - 24) // 2, (image.height - 24) // 2
    wanted = np.asarray(image)[top : top + 24, left : left + 24].transpose(2, 0, 1)
    assert np.abs(got[0].astype(int) - wanted).max() <= 1


@pytest.mark.parametrize("turned", [False, True])
def test_a_very_long_picture_costs_no_more_than_its_crop(turned):
    """Resized as a whole it would have 224 × 224 000 000 pixels."""
    picture = np.arange(1_000_000).repeat(3).reshape(-1, 1, 3).astype(np.uint8)
    frame = av.VideoFrame.from_ndarray(picture.swapaxes(0, 1) if turned else picture, format="rgb24")
    got = decode._to_model_size(frame, Preprocess(size=224, resize_mode="shortest"))
    assert got.shape == (3, 224, 224)
    assert set(np.unique(got)) <= set(range(1_000_000 // 2 % 256 - 4, 1_000_000 // 2 % 256 + 4))


def test_errors_cross_processes():
    error = pickle.loads(pickle.dumps(SampleError("no_frames", "why")))  # noqa: S301
    assert (error.code, error.detail, error.stage) == ("no_frames", "why", "decode")
