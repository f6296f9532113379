"""Files made to harm who opens them: they name other files and hosts, lie about their size, unpack to gigabytes."""

import contextlib
import ctypes
import io
import os
import pickle
import socket
import struct
import zlib

import av
import numpy as np
from PIL import Image

from tests.pipelines.videos import make_video

TEN_HOURS = 36_000
_IN_OPEN = 0x20


class Touch:
    """Unpickled, it creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def pickled(path):
    return pickle.dumps(Touch(path))


class Canary:
    """A video file and a listening socket that nobody has any business with."""

    def __init__(self, folder):
        self.path = folder / "canary.mp4"
        self.path.write_bytes(make_video(fmt="mov"))
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._socket.setblocking(False)
        self.port = self._socket.getsockname()[1]
        libc = ctypes.CDLL(None, use_errno=True)
        self._watch = libc.inotify_init1(os.O_NONBLOCK)
        assert libc.inotify_add_watch(self._watch, os.fsencode(self.path), _IN_OPEN) >= 0, ctypes.get_errno()

    def touched(self):
        """Who came since the last call: a set of "file" and "socket"."""
        came = set()
        with contextlib.suppress(BlockingIOError):
            os.read(self._watch, 1 << 16)
            came.add("file")
        with contextlib.suppress(BlockingIOError):
            self._socket.accept()[0].close()
            came.add("socket")
        return came

    def close(self):
        self._socket.close()
        os.close(self._watch)


def playlists(path, port):
    """Text that makes a careless player open a file and a connection, by the name of its format."""
    url = f"http://127.0.0.1:{port}/x.ts"
    hls = f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{url}\n#EXTINF:9,\nfile://{path}\n#EXT-X-ENDLIST\n"
    return {
        "hls": hls.encode(),
        "ffconcat": f"ffconcat version 1.0\nfile '{path}'\nfile '{url}'\n".encode(),
        "concat": f"concat:{path}|{url}".encode(),
        "sdp": f"v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video {port} RTP/AVP 96\n".encode(),
        "dash": f'<?xml version="1.0"?><MPD><Period><AdaptationSet><Representation><BaseURL>{url}</BaseURL>'
        "</Representation></AdaptationSet></Period></MPD>".encode(),
    }


def box(kind, *content):
    """A box of an mp4."""
    body = b"".join(content)
    return struct.pack(">I4s", 8 + len(body), kind) + body


def compressed_header(num_bytes):
    """A mov whose header unpacks to so many zeros, from a thousandth of them."""
    packed = zlib.compressobj(9)
    zeros = b"".join(packed.compress(bytes(1 << 20)) for _ in range(num_bytes >> 20)) + packed.flush()
    cmov = box(b"cmov", box(b"dcom", b"zlib"), box(b"cmvd", struct.pack(">I", num_bytes), zeros))
    return box(b"ftyp", b"qt  ", bytes(4), b"qt  ") + box(b"moov", cmov)


def external_media(path):
    """A mov whose frames lie in another file, as its data reference tells."""
    data = make_video(fmt="mov")
    name = str(path).encode()
    alias = bytearray(150)
    alias[10] = 4
    alias[10:14] = b"disk"
    alias[50] = 6
    alias[51:57] = b"canary"
    fields = struct.pack(">HH", 2, len(name)) + name + b"\0" * (len(name) % 2)
    fields += struct.pack(">HH", 18, len(name)) + name + b"\0" * (len(name) % 2) + struct.pack(">HH", 0xFFFF, 0)
    reference = box(b"dref", struct.pack(">II", 0, 1), box(b"alis", bytes(4), bytes(alias), fields))
    return replace_box(data, b"dref", reference)


def replace_box(data, kind, new):
    """The same mp4, its header last, with another box in the header."""
    start = data.index(kind) - 4
    (size,) = struct.unpack_from(">I", data, start)
    grown = bytearray(data[:start] + new + data[start + size :])
    at = 0
    while at < start:
        (length,) = struct.unpack_from(">I", data, at)
        if at + length <= start:
            at += length
            continue
        struct.pack_into(">I", grown, at, length + len(new) - size)
        at += 8
    return bytes(grown)


def ten_hours_claimed():
    """The header tells ten hours, the frames one second."""
    data = bytearray(make_video(num_frames=10))
    at = data.index(b"mvhd")
    (scale,) = struct.unpack_from(">I", data, at + 16)
    struct.pack_into(">I", data, at + 20, TEN_HOURS * scale)
    at = data.index(b"mdhd")
    (scale,) = struct.unpack_from(">I", data, at + 16)
    struct.pack_into(">I", data, at + 20, TEN_HOURS * scale)
    return bytes(data)


def days_between_frames():
    data = bytearray(make_video(num_frames=10, b_frames=0).replace(b"edts", b"free"))
    at = data.index(b"stts") + 16
    struct.pack_into(">I", data, at, 1 << 30)
    return bytes(data)


def giant_picture():
    """A webm of 64 × 48 pixels, with pictures in it of 16,383 × 16,383."""
    data = bytearray(make_video(fmt="webm", codec="libvpx", b_frames=0))
    at = -1
    while (at := data.find(b"\x9d\x01\x2a", at + 1)) >= 0:
        struct.pack_into("<HH", data, at + 3, 16_383, 16_383)
    return bytes(data)


def giant_h264():
    """An mp4 whose parameter set tells 65,536 × 65,536 pixels."""
    bits = f"{66:08b}{0:08b}{51:08b}11{ue(2)}{ue(1)}0{ue(4095)}{ue(4095)}11001"
    num_bytes = -(-len(bits) // 8)
    sps = b"\x67" + int(bits.ljust(8 * num_bytes, "0"), 2).to_bytes(num_bytes, "big")
    data = make_video()
    at = data.index(b"avcC")
    (length,) = struct.unpack_from(">H", data, at + 10)
    return data[: at + 12] + sps.ljust(length, b"\0") + data[at + 12 + length :]


def ue(value):
    """An unsigned number in the code of H.264."""
    text = f"{value + 1:b}"
    return "0" * (len(text) - 1) + text


def flat_png(side):
    """A PNG of so many pixels a side, in a thousandth of their bytes."""
    sink = io.BytesIO()
    Image.new("L", (side, side)).save(sink, "PNG")
    return sink.getvalue()


def subtitled_avi(playlist):
    """Motion JPEG with a subtitle that is a playlist: players probe what a GAB2 chunk holds, and open it."""
    sink = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)).save(sink, "JPEG")
    main = struct.pack("<14I", 100_000, 0, 0, 0, 4, 0, 2, 0, 64, 48, 0, 0, 0, 0)
    form = struct.pack("<IiiHH4sIiiII", 40, 64, 48, 1, 24, b"MJPG", 64 * 48 * 3, 0, 0, 0, 0)
    streams = _avi_stream(b"vids", b"MJPG", form) + _avi_stream(b"txts", bytes(4), b"")
    header = _chunk(b"LIST", b"hdrl", _chunk(b"avih", main), streams)
    name = "x.m3u8".encode("utf-16-le") + b"\0\0"
    gab2 = b"GAB2\0" + struct.pack("<HI", 2, len(name)) + name + struct.pack("<HI", 4, len(playlist)) + playlist
    frames = _chunk(b"01tx", gab2) + _chunk(b"00dc", sink.getvalue()) * 4
    return _chunk(b"RIFF", b"AVI ", header, _chunk(b"LIST", b"movi", frames))


def _avi_stream(kind, handler, form):
    head = struct.pack("<4s4sIHHIIIIIIIIHHHH", kind, handler, 0, 0, 0, 0, 1, 10, 0, 4, 0, 0, 0, 0, 0, 64, 48)
    return _chunk(b"LIST", b"strl", _chunk(b"strh", head), _chunk(b"strf", form))


def _chunk(kind, *content):
    body = b"".join(content)
    return kind + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)


def sound_alone():
    """An mp4 without a picture."""
    sink = io.BytesIO()
    with av.open(sink, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=16_000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return sink.getvalue()
