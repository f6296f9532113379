import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fpig_core.preprocess import Preprocess
from pipelines.decode import decode_sample
from pipelines.images import IMAGE_FORMATS, decode_image
from pipelines.indexing import index_shards
from pipelines.limits import VideoLimits
from pipelines.manifest import load_manifest
from pipelines.quarantine import SampleError
from pipelines.suffixes import IMAGE_SUFFIXES
from tests.pipelines.test_tarwalk import make_tar
from tests.pipelines.videos import make_video
from tests.rows import videos_of_rows

SMALL = Preprocess(num_frames=3, size=16)
PICTURE = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
ORIENTATION = 0x112


def encode(image, form, **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def shrink(rgb_HW3):
    """The slow way: every frame on its own."""
    resized = [Image.fromarray(rgb_HW3).resize((16, 16), Image.Resampling.BICUBIC) for _ in range(3)]
    return np.stack([np.asarray(image).transpose(2, 0, 1) for image in resized])


def stored(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


JPEG = encode(Image.fromarray(PICTURE), "JPEG")
PNG = encode(Image.fromarray(PICTURE), "PNG")
WEBP = encode(Image.fromarray(PICTURE), "WEBP", lossless=True)
BYTES = {"jpg": JPEG, "jpeg": JPEG, "png": PNG, "webp": WEBP}


@pytest.mark.parametrize("suffix", IMAGE_SUFFIXES)
def test_an_image_is_a_video_of_one_frame(suffix):
    got = decode_image(BYTES[suffix], suffix=suffix, preprocess=SMALL)
    assert got.dtype == np.uint8
    assert got.flags.c_contiguous
    np.testing.assert_array_equal(got, shrink(stored(BYTES[suffix])))
    assert set(IMAGE_FORMATS) == set(IMAGE_SUFFIXES)


@pytest.mark.parametrize("data", [PNG, WEBP])
def test_without_loss_the_pixels_are_those_that_were_stored(data):
    suffix = "png" if data is PNG else "webp"
    np.testing.assert_array_equal(decode_image(data, suffix=suffix, preprocess=SMALL), shrink(PICTURE))


@pytest.mark.parametrize(("height", "width"), [(48, 64), (64, 48), (1, 9)])
def test_shortest_crops_the_centre(height, width):
    picture = np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)
    preprocess = Preprocess(num_frames=1, size=24, resize_mode="shortest")
    got = decode_image(encode(Image.fromarray(picture), "PNG"), suffix="png", preprocess=preprocess)
    short = min(height, width)
    image = Image.fromarray(picture).resize((24 * width // short, 24 * height // short), Image.Resampling.BICUBIC)
    left, top = (image.width - 24) // 2, (image.height - 24) // 2
    wanted = np.asarray(image)[top : top + 24, left : left + 24].transpose(2, 0, 1)
    assert np.abs(got[0].astype(int) - wanted).max() <= 1


UPRIGHT = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.transpose(1, 0, 2),
    6: lambda x: np.rot90(x, k=3),
    7: lambda x: x[::-1, ::-1].transpose(1, 0, 2),
    8: lambda x: np.rot90(x, k=1),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize(("suffix", "form"), [("jpg", "JPEG"), ("png", "PNG"), ("webp", "WEBP")])
def test_images_are_shown_upright(suffix, form, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    data = encode(Image.fromarray(PICTURE), form, exif=exif)
    upright = np.ascontiguousarray(UPRIGHT[orientation](stored(data)))
    np.testing.assert_array_equal(decode_image(data, suffix=suffix, preprocess=SMALL), shrink(upright))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize(
    "exif", [b"Exif\0\0", b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\0\x09"]
)
def test_damaged_exif_leaves_the_image_as_it_is_stored(exif):
    data = encode(Image.fromarray(PICTURE), "JPEG", exif=exif)
    np.testing.assert_array_equal(decode_image(data, suffix="jpg", preprocess=SMALL), shrink(stored(JPEG)))


def grey16_png(value):
    """A grey PNG of 16 bits, by the specification (ISO/IEC 15948)."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", 20, 20, 16, 0, 0, 0, 0)
    rows = (b"\0" + struct.pack(">H", value) * 20) * 20
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def flat(mode, colour, **options):
    return Image.new(mode, (20, 20), colour, **options)


def palette(colour, **info):
    image = flat("P", 1)
    image.putpalette([0, 0, 0, *colour])
    image.info.update(info)
    return image


@pytest.mark.parametrize(
    ("suffix", "data", "rgb"),
    [
        ("png", encode(flat("L", 77), "PNG"), (77, 77, 77)),
        ("jpg", encode(flat("L", 77), "JPEG"), (77, 77, 77)),
        ("png", encode(flat("1", 1), "PNG"), (255, 255, 255)),
        ("png", grey16_png(0x80FF), (128, 128, 128)),
        ("png", encode(flat("RGBA", (10, 20, 30, 255)), "PNG"), (10, 20, 30)),
        ("png", encode(flat("RGBA", (10, 20, 30, 0)), "PNG"), (255, 255, 255)),
        ("png", encode(flat("LA", (0, 51)), "PNG"), (204, 204, 204)),
        ("webp", encode(flat("RGBA", (0, 100, 200, 51)), "WEBP", lossless=True), (204, 224, 244)),
        ("png", encode(palette((1, 2, 3)), "PNG"), (1, 2, 3)),
        ("png", encode(palette((1, 2, 3)), "PNG", transparency=1), (255, 255, 255)),
        ("png", encode(flat("RGB", (9, 9, 9)), "PNG", transparency=(9, 9, 9)), (255, 255, 255)),
        ("jpg", encode(flat("CMYK", (0, 0, 0, 0)), "JPEG"), (255, 255, 255)),
        ("jpg", encode(flat("CMYK", (0, 0, 0, 255)), "JPEG"), (0, 0, 0)),
        ("png", encode(flat("RGB", "red"), "PNG", save_all=True, append_images=[flat("RGB", "blue")]), (255, 0, 0)),
        (
            "webp",
            encode(flat("RGB", "red"), "WEBP", lossless=True, save_all=True, append_images=[flat("RGB", "blue")]),
            (255, 0, 0),
        ),
    ],
)
def test_every_mode_becomes_rgb_on_white_and_an_animation_its_first_image(suffix, data, rgb):
    got = decode_image(data, suffix=suffix, preprocess=SMALL)
    np.testing.assert_array_equal(got, np.broadcast_to(np.array(rgb)[:, None, None], (3, 3, 16, 16)))


def code_of(data, *, suffix, **options):
    with pytest.raises(SampleError) as caught:
        decode_image(data, suffix=suffix, preprocess=SMALL, **options)
    assert caught.value.stage == "decode"
    return caught.value.code


@pytest.mark.parametrize("suffix", IMAGE_SUFFIXES)
def test_what_is_no_image_of_its_suffix_is_told(suffix):
    others = [data for name, data in BYTES.items() if IMAGE_FORMATS[name] != IMAGE_FORMATS[suffix]]
    gif = encode(Image.fromarray(PICTURE), "GIF")
    for data in [b"", b"garbage" * 100, make_video(num_frames=2), b"%!PS-Adobe-3.0\n", gif, *others]:
        assert code_of(data, suffix=suffix) == "bad_image"


@settings(max_examples=40, deadline=None)
@given(suffix=st.sampled_from(IMAGE_SUFFIXES), share=st.floats(0, 0.95))
def test_cut_images_are_told(suffix, share):
    data = BYTES[suffix]
    assert code_of(data[: int(len(data) * share)], suffix=suffix) == "bad_image"


@settings(max_examples=150, deadline=None)
@given(
    suffix=st.sampled_from(IMAGE_SUFFIXES),
    noise=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=4),
)
@pytest.mark.filterwarnings("ignore")
def test_damage_gives_a_picture_or_a_reason(suffix, noise):
    data = bytearray(BYTES[suffix])
    for place, value in noise:
        data[place] = value
    try:
        assert decode_image(bytes(data), suffix=suffix, preprocess=SMALL).shape == (3, 3, 16, 16)
    except SampleError as error:
        assert error.code in ("bad_image", "too_large")  # noqa: PT017


@pytest.mark.parametrize("limits", [VideoLimits(max_bytes=100), VideoLimits(max_pixels=30 * 40 - 1)])
def test_limits_hold(limits):
    for suffix, data in BYTES.items():
        assert code_of(data, suffix=suffix, limits=limits) == "too_large"


@pytest.mark.filterwarnings("ignore:Image size")
@pytest.mark.parametrize("side", [8_000, 10_000, 60_000])
def test_an_image_is_measured_before_it_is_unpacked(side):
    """By its header alone: the bytes hold no such picture."""
    head = struct.pack(">II", side, side) + PNG[24:29]
    bomb = PNG[:16] + head + struct.pack(">I", zlib.crc32(b"IHDR" + head)) + PNG[33:]
    assert code_of(bomb, suffix="png") == "too_large"


def test_other_suffixes_are_refused():
    assert code_of(encode(Image.fromarray(PICTURE), "GIF"), suffix="gif") == "bad_suffix"


def test_a_mixed_shard_is_decoded_sample_by_sample(tmp_path):
    video = make_video(num_frames=4)
    members = [("v.mp4", video), ("v.jpg", JPEG), ("i.jpg", JPEG), ("i.txt", b"noise"), ("p.png", PNG), ("b.jpg", PNG)]
    (tmp_path / "a.tar").write_bytes(make_tar(members))
    report = index_shards(str(tmp_path))
    assert (report.num_samples, report.num_ok, report.num_captioned, report.num_ignored) == (4, 4, 1, 1)
    manifest, results = load_manifest(str(tmp_path)), {}
    for record, data in zip(manifest.table.to_pylist(), videos_of_rows(manifest, range(4)), strict=True):
        try:
            results[record["key"]] = decode_sample(record, data, preprocess=SMALL, rng=np.random.default_rng(0))
        except SampleError as error:
            results[record["key"]] = error.code
    assert results["v"].shape == (3, 3, 16, 16)
    assert (results["v"][0] != results["v"][2]).any()
    np.testing.assert_array_equal(results["i"], shrink(stored(JPEG)))
    np.testing.assert_array_equal(results["p"], shrink(PICTURE))
    assert results["b"] == "bad_image"
