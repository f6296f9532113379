"""A probe tells what a full decode would, from few bytes, and never raises."""

import io
import os
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from pipelines import probe
from pipelines.limits import VideoLimits
from pipelines.probe import Probe, probe_media
from pipelines.quarantine import STAGES
from tests.pipelines.videos import make_video


def probed(data, suffix, **options):
    """(probe, bytes that were asked for)"""
    asked = []

    def read(start, length):
        asked.append(length)
        return data[start : start + length]

    return probe_media(read, num_bytes=len(data), suffix=suffix, **options), sum(asked)


@pytest.mark.parametrize(
    ("suffix", "fmt", "codec", "name"),
    [
        ("mp4", "mp4", "libx264", "h264"),
        ("mov", "mov", "mpeg4", "mpeg4"),
        ("mkv", "matroska", "libx264", "h264"),
        ("webm", "webm", "libvpx", "vp8"),
        ("avi", "avi", "mpeg4", "mpeg4"),
    ],
)
def test_a_video_tells_what_it_is(suffix, fmt, codec, name):
    data = make_video(num_frames=20, fps=10, fmt=fmt, codec=codec, height=48, width=64)
    found, _ = probed(data, suffix)
    assert found._replace(duration_s=None) == Probe(name, 64, 48, None, "ok")
    assert found.duration_s == pytest.approx(2.0, abs=0.11)


def test_a_long_video_is_not_read():
    data = make_video(num_frames=600, height=240, width=320, gop=50)
    found, num_bytes = probed(data, "mp4")
    assert found.duration_s == pytest.approx(60.0, abs=0.2)
    assert num_bytes < min(len(data), 3 << 20)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_an_image_tells_its_size(suffix):
    sink = io.BytesIO()
    Image.new("RGB", (40, 30)).save(sink, {"jpg": "JPEG"}.get(suffix, suffix.upper()))
    found, _ = probed(sink.getvalue(), suffix)
    assert (found.width, found.height, found.duration_s, found.probe) == (40, 30, None, "ok")


def sound_only():
    sink = io.BytesIO()
    with av.open(sink, "w", format="mp4") as container:
        stream: Any = container.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return sink.getvalue()


@pytest.mark.parametrize(
    ("data", "suffix", "code"),
    [
        (b"no video" * 500, "mp4", "bad_container"),
        (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", "mp4", "bad_container"),
        (make_video()[:3000], "mp4", "bad_container"),
        (sound_only(), "mp4", "no_stream"),
        (b"no image", "jpg", "bad_image"),
    ],
)
def test_what_cannot_be_read_has_its_reason(data, suffix, code):
    found, _ = probed(data, suffix)
    assert found.probe == code
    assert code in STAGES["decode"]


def test_limits_hold():
    data = make_video(num_frames=30, fps=10)
    assert probed(data, "mp4", limits=VideoLimits(max_bytes=100)) == (Probe(probe="too_large"), 0)
    assert probed(data, "mp4", limits=VideoLimits(max_seconds=1.0))[0].probe == "too_large"
    assert probed(data, "mp4", limits=VideoLimits(max_pixels=100))[0].probe != "ok"


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi", "png"])
def test_noise_asks_for_a_bounded_number_of_bytes(suffix, monkeypatch):
    monkeypatch.setattr(probe, "MAX_PROBE_BYTES", 1 << 20)
    found, num_bytes = probed(os.urandom(4 << 20), suffix)
    assert found.probe != "ok"
    assert num_bytes <= 1 << 20
