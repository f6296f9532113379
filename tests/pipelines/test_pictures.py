"""Leaving packets out must not change a frame: every result is compared with a complete decode."""

import io
from contextlib import contextmanager
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fpig_core.frames import jittered_indices, uniform_indices
from fpig_core.preprocess import Preprocess
from pipelines import decode
from pipelines.decode import decode_frames
from pipelines.pictures import Picture, plan_runs, read_pictures
from tests.pipelines.videos import all_frames, make_video, shrink

TWELVE = Preprocess(num_frames=12, size=16)


@contextmanager
def counted():
    """The packets that reach the decoder, as a list that grows."""
    packets, run = [], decode._Clip._decode

    def count(clip, these):
        packets.extend(these)
        return run(clip, these)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decode._Clip, "_decode", count)
        yield packets


def check(data, *, suffix="mp4", num_frames=12, rng_seed=None):
    """Compare with the complete decode; returns (packets that were decoded, frames of the video)."""
    frames, _ = all_frames(data)
    rng = None if rng_seed is None else np.random.default_rng(rng_seed)
    with counted() as packets:
        got = decode_frames(data, suffix=suffix, preprocess=Preprocess(num_frames=num_frames, size=16), rng=rng)
    if rng_seed is None:
        numbers = uniform_indices(len(frames), num_frames)
    else:
        numbers = jittered_indices(len(frames), num_frames, np.random.default_rng(rng_seed))
    np.testing.assert_array_equal(got, shrink(frames, numbers, 16))
    return len(packets), len(frames)


@settings(max_examples=25, deadline=None)
@given(
    num_frames=st.integers(1, 70),
    gop=st.integers(1, 80),
    b_frames=st.integers(0, 4),
    fmt=st.sampled_from([("mp4", "mp4"), ("mov", "mov"), ("matroska", "mkv")]),
    params=st.sampled_from(
        ["", "open-gop=1", "b-pyramid=none", "ref=1", "slices=3", "bframes=3:b-adapt=0", "intra-refresh=1"]
    ),
    wanted=st.sampled_from([1, 5, 12]),
    rng_seed=st.none() | st.integers(0, 99),
)
def test_h264_equals_a_complete_decode(num_frames, gop, b_frames, fmt, params, wanted, rng_seed):
    data = make_video(num_frames=num_frames, gop=gop, b_frames=b_frames, fmt=fmt[0], options={"x264-params": params})
    check(data, suffix=fmt[1], num_frames=wanted, rng_seed=rng_seed)


@settings(max_examples=10, deadline=None)
@given(
    num_frames=st.integers(3, 50),  # with one or two, libx265 now and then writes a packet that the muxer refuses
    gop=st.integers(1, 30),
    params=st.sampled_from(
        ["open-gop=0", "open-gop=1", "open-gop=1:bframes=4:b-adapt=0", "temporal-layers=2", "bframes=0"]
    ),
    rng_seed=st.none() | st.integers(0, 99),
)
def test_hevc_equals_a_complete_decode(num_frames, gop, params, rng_seed):
    params = f"log-level=none:pools=none:frame-threads=1:{params}"
    data = make_video(num_frames=num_frames, gop=gop, codec="libx265", options={"x265-params": params})
    check(data, rng_seed=rng_seed)


@pytest.mark.parametrize(
    ("codec", "options", "most"),
    [
        ("libx264", {"x264-params": "bframes=3:b-adapt=0:scenecut=0"}, 0.6),
        ("libx264", {"x264-params": "keyint=6:scenecut=0"}, 0.5),
        ("libx265", {"x265-params": "log-level=none:pools=none:keyint=10:min-keyint=10:scenecut=0"}, 0.6),
    ],
)
def test_most_packets_are_left_out(codec, options, most):
    num_decoded, num_frames = check(make_video(num_frames=150, gop=150, codec=codec, b_frames=3, options=options))
    assert num_decoded <= most * num_frames


def test_frames_of_varying_length():
    times = np.cumsum(np.random.default_rng(0).integers(1, 40, 60))
    for fmt, suffix in (("mp4", "mp4"), ("matroska", "mkv")):
        num_decoded, num_frames = check(make_video(num_frames=60, gop=10, times=times, fmt=fmt), suffix=suffix)
        assert num_decoded < num_frames


@settings(max_examples=20, deadline=None)
@given(start=st.floats(0, 5.9), length=st.floats(0.05, 6), gop=st.sampled_from([1, 7, 60]))
def test_segments(start, length, gop):
    data = make_video(num_frames=60, gop=gop)
    frames, times = all_frames(data)
    got = decode_frames(data, suffix="mp4", preprocess=TWELVE, start_s=start, end_s=start + length)
    inside = [n for n, time in enumerate(times) if start - 1e-6 <= time < start + length - 1e-6]
    on_screen = [max(n for n, time in enumerate(times) if time <= start + 1e-6)]
    numbers = np.array(inside or on_screen)
    np.testing.assert_array_equal(got, shrink(frames, numbers[uniform_indices(len(numbers), 12)], 16))


def remuxed(data, change, *, fmt="matroska"):
    """``data`` with its packets passed through ``change``."""
    buffer = io.BytesIO()
    with av.open(io.BytesIO(data), "r") as source, av.open(buffer, "w", format=fmt) as sink:
        stream = sink.add_stream_from_template(source.streams.video[0])
        packets = [packet for packet in source.demux(video=0) if packet.size]
        for packet in change(packets):
            packet.stream = stream
            sink.mux(packet)
    return buffer.getvalue()


def with_times_of_decoding(packets):
    for packet in packets:
        packet.pts = packet.dts
    return packets


@pytest.mark.parametrize(("fmt", "suffix"), [("matroska", "mkv"), ("mp4", "mp4")])
def test_a_lost_packet_damages_nothing_but_its_group_of_pictures(fmt, suffix):
    """Nothing at all where it was disposable. The first one lost: a stream that begins without a key picture."""
    data = make_video(num_frames=27, gop=9, options={"x264-params": "scenecut=0"})
    with av.open(io.BytesIO(data), "r") as container:
        stream = container.streams.video[0]
        pictures = read_pictures([packet for packet in container.demux(stream) if packet.size], stream.codec_context)
    assert pictures
    for lost, picture in enumerate(pictures):
        damaged = remuxed(data, lambda packets, lost=lost: packets[:lost] + packets[lost + 1 :], fmt=fmt)
        frames, _ = all_frames(damaged)
        got = decode_frames(damaged, suffix=suffix, preprocess=TWELVE)
        numbers = uniform_indices(len(frames), 12)
        group = [] if picture.is_disposable or lost == 0 else range(lost // 9 * 9, lost // 9 * 9 + 9)
        sound = ~np.isin(numbers, group)
        np.testing.assert_array_equal(got[sound], shrink(frames, numbers[sound], 16))


def test_times_that_hide_the_b_frames():
    data = remuxed(make_video(num_frames=60, gop=60, b_frames=3), with_times_of_decoding)
    num_decoded, num_frames = check(data, suffix="mkv")
    assert num_decoded == num_frames


@pytest.mark.parametrize("cut", [1, 40, 300])
def test_a_broken_tail(cut):
    data = make_video(num_frames=40, fmt="matroska")
    whole = data[: data.rindex(b"\x1c\x53\xbb\x6b")]  # without the index at the end
    num_decoded, num_frames = check(whole[:-cut], suffix="mkv")
    assert num_decoded < num_frames < 40


def test_parameters_inside_the_stream():
    """As videos have them that were cut out of a transport stream."""
    data = make_video(num_frames=40, gop=8, options={"x264-params": "repeat-headers=1"})
    num_decoded, num_frames = check(data)
    assert num_decoded < num_frames


def test_parameters_that_change_inside_the_stream():
    first, second = (
        make_video(num_frames=20, gop=8, options={"x264-params": f"repeat-headers=1:ref={n}"}) for n in (1, 4)
    )

    def append(packets):
        with av.open(io.BytesIO(second), "r") as source:
            later: list[Any] = [packet for packet in source.demux(video=0) if packet.size]
            for packet in later:
                packet.pts, packet.dts = packet.pts + 20 * later[0].duration, packet.dts + 20 * later[0].duration
            return packets + later

    num_decoded, num_frames = check(remuxed(first, append, fmt="mp4"))
    assert num_decoded == num_frames == 40


def test_interlaced_frames():
    data = make_video(num_frames=30, gop=8, options={"x264-params": "tff=1"})
    num_decoded, num_frames = check(data)
    assert num_decoded == num_frames


@pytest.mark.parametrize("fmt", ["avi", "mp4"])
def test_a_wrong_number_of_frames_in_the_header(fmt):
    data = bytearray(make_video(num_frames=30, fmt=fmt, codec="mpeg4" if fmt == "avi" else "libx264", b_frames=0))
    if fmt == "avi":
        at = data.index(b"avih") + 8 + 16
        data[at : at + 4] = (9).to_bytes(4, "little")
    else:
        at = data.index(b"mdhd") + 4 + 16
        data[at : at + 4] = (7).to_bytes(4, "big")  # the duration
    check(bytes(data), suffix=fmt)


pictures = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40)


@given(traits=pictures, data=st.data())
def test_runs_begin_at_starts_and_hold_what_is_needed(traits, data):
    stream: list[Any] = [
        Picture(n, is_start or n == 0, is_disposable) for n, (is_start, is_disposable) in enumerate(traits)
    ]
    wanted = data.draw(st.sets(st.integers(0, len(stream) - 1), min_size=1))
    runs = plan_runs(stream, wanted)
    decoded = [number for run in runs for number in run]
    assert decoded == sorted(set(decoded))
    assert wanted <= set(decoded)
    for run in runs:
        assert stream[run[0]].is_start
        assert run[-1] in wanted
        left_out = set(range(run[0], run[-1])) - set(run)
        assert all(stream[number].is_disposable for number in left_out)
