import io
import struct

import av
import numpy as np
import pytest

from fpig_core.preprocess import Preprocess
from pipelines.decode import decode_frames
from pipelines.limits import VideoLimits
from pipelines.quarantine import SampleError
from pipelines.transcode import Encoding, transcode
from tests.pipelines.videos import all_frames, make_video

GOOD = Encoding(short_side=256, crf=1)
DATA = make_video(num_frames=30, fps=10)


def distance(a, b):
    return np.abs(a.astype(float) - b.astype(float)).mean()


def smooth_video(*, num_frames=20, height=96, width=128, **colour):
    """A clip of soft colours, which survives coding almost unchanged."""
    y, x = np.mgrid[0:height, 0:width]
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"crf": "1"}
        for name, value in colour.items():
            setattr(stream.codec_context, name, value)
        for number in range(num_frames):
            image = np.stack([x * 1.5 + number, y * 2.0, 200 - x], axis=-1).clip(0, 255).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


def test_all_frames_stay_at_their_times():
    frames, times = all_frames(DATA)
    got, got_times = all_frames(transcode(DATA, suffix="mp4", encoding=GOOD))
    assert got.shape == frames.shape
    np.testing.assert_allclose(got_times, times, atol=1e-4)
    assert distance(got, frames) < 8


@pytest.mark.parametrize("colour", [{}, {"colorspace": 1}, {"color_range": 2}, {"colorspace": 1, "color_range": 2}])
def test_colours_stay_what_a_decoder_of_the_original_shows(colour):
    data, preprocess = smooth_video(**colour), Preprocess(num_frames=4, size=48)
    got = transcode(data, suffix="mp4", encoding=Encoding(short_side=96, crf=1))
    wanted = decode_frames(data, suffix="mp4", preprocess=preprocess)
    assert distance(decode_frames(got, suffix="mp4", preprocess=preprocess), wanted) < 2


def test_the_same_bytes_every_time_and_key_frames_close_by():
    encoding = Encoding(short_side=32, gop=7)
    first = transcode(DATA, suffix="mp4", encoding=encoding)
    assert first == transcode(DATA, suffix="mp4", encoding=encoding)
    with av.open(io.BytesIO(first), "r") as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        keys = [number for number, packet in enumerate(packets) if packet.is_keyframe]
    assert keys == list(range(0, 30, 7))
    assert [packet.pts for packet in packets] == [packet.dts for packet in packets]


@pytest.mark.parametrize(("fps", "count"), [(0.0, 30), (100.0, 30), (5.0, 15), (4.0, 12), (1.0, 3), (0.1, 1)])
def test_fewer_frames_are_the_first_of_each_tick(fps, count):
    _, times = all_frames(DATA)
    _, got = all_frames(transcode(DATA, suffix="mp4", encoding=Encoding(fps=fps)))
    wanted = {int(time * fps + 1e-6): time for time in reversed(times)} if fps else dict(enumerate(times))
    assert len(got) == count
    np.testing.assert_allclose(got, sorted(wanted.values()), atol=1e-4)


@pytest.mark.parametrize(
    ("height", "width", "wanted"), [(48, 64, (32, 42)), (64, 48, (42, 32)), (32, 32, (32, 32)), (20, 16, (20, 16))]
)
def test_the_short_side_shrinks_and_never_grows(height, width, wanted):
    got, _ = all_frames(
        transcode(make_video(num_frames=2, height=height, width=width), suffix="mp4", encoding=Encoding(short_side=32))
    )
    assert got.shape[1:3] == wanted


@pytest.mark.parametrize(
    ("start_s", "end_s"), [(None, 1.0), (1.0, None), (0.95, 2.05), (1.01, 1.02), (2.95, None), (2.92, 5.0)]
)
def test_a_segment_holds_the_frames_that_decoding_would_show(start_s, end_s):
    preprocess = Preprocess(num_frames=6, size=32)
    cut = transcode(DATA, suffix="mp4", encoding=GOOD, start_s=start_s, end_s=end_s)
    wanted = decode_frames(DATA, suffix="mp4", preprocess=preprocess, start_s=start_s, end_s=end_s)
    assert distance(decode_frames(cut, suffix="mp4", preprocess=preprocess), wanted) < 6
    assert all_frames(cut)[1][0] == 0


def test_rotated_videos_come_out_upright():
    track = DATA.index(b"tkhd") + 4
    at = DATA.index(struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30), track)
    turn = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)
    rotated = DATA[:at] + turn + DATA[at + 36 :]
    preprocess = Preprocess(num_frames=3, size=32)
    got = transcode(rotated, suffix="mp4", encoding=GOOD)
    assert all_frames(got)[0].shape[1:3] == (64, 48)
    wanted = decode_frames(rotated, suffix="mp4", preprocess=preprocess)
    assert distance(decode_frames(got, suffix="mp4", preprocess=preprocess), wanted) < 6


@pytest.mark.parametrize(
    ("data", "options", "code"),
    [
        (b"", {}, "bad_container"),
        (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", {}, "bad_container"),
        (DATA, {"suffix": "mkv"}, "bad_container"),
        (DATA, {"suffix": "m3u8"}, "bad_suffix"),
        (DATA.replace(b"avc1", b"zzzz"), {}, "no_decoder"),
        (DATA, {"start_s": 3.2}, "empty_segment"),
        (DATA, {"limits": VideoLimits(max_frames=29)}, "too_large"),
        (DATA, {"limits": VideoLimits(max_seconds=2.0)}, "too_large"),
        (DATA, {"limits": VideoLimits(max_pixels=64 * 48 - 1)}, "too_large"),
    ],
)
def test_what_cannot_be_transcoded_is_told(data, options, code):
    with pytest.raises(SampleError) as caught:
        transcode(data, **{"suffix": "mp4", "encoding": Encoding(), **options})
    assert caught.value.code == code


def test_a_video_whose_data_ends_before_its_index_is_told():
    moov = DATA.index(b"moov") - 4
    start = DATA.index(b"mdat") - 4
    half = start + (moov - start) // 2
    cut = DATA[:start] + struct.pack(">I4s", half - start, b"mdat") + DATA[start + 8 : half] + DATA[moov:]
    with pytest.raises(SampleError, match="bad_stream"):
        transcode(cut, suffix="mp4", encoding=Encoding())


@pytest.mark.parametrize("wrong", [{"short_side": 8}, {"fps": -1.0}, {"gop": 0}, {"crf": 60}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match="wanted"):
        Encoding(**wrong)
