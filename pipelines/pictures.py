"""Which packets of an H.264 or HEVC stream must be decoded to see given frames.

Two things leave no mark on the other frames: groups of pictures without a wanted frame, and pictures that no other
refers to (``nal_ref_idc`` 0 in H.264, 7.4.1; the sub-layer non-reference types in HEVC, 7.4.2.2, where there is one
sub-layer). The headers of the NAL units tell both. A stream with anything unusual has to be decoded from front to back.
"""

import bisect
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from av.packet import Packet
from av.video.codeccontext import VideoCodecContext

_PROGRESSIVE = 1


class Picture(NamedTuple):
    """What one packet holds: one whole picture.

    ``is_start``: nothing that comes after it and is shown after it refers to anything before it.
    ``is_disposable``: the packet serves its own picture alone.
    """

    pts: int
    is_start: bool
    is_disposable: bool


def read_pictures(packets: Sequence[Packet], codec: VideoCodecContext) -> list[Picture] | None:
    """The picture of each packet, or None unless the decoder is sure to show them all, by presentation time.

    ``codec`` must not have decoded yet: its reorder depth is compared with the packets.
    """
    read_unit, length_at = _FORMATS.get(codec.name, (None, 0))
    extra = codec.extradata or b""
    if read_unit is None or len(extra) <= length_at or extra[0] != 1 or codec.field_order != _PROGRESSIVE:
        return None
    length_bytes = (extra[length_at] & 3) + 1
    slices: list[_Unit] = []
    parameters: list[bytes] = []
    for packet in packets:
        if packet.pts is None or packet.is_discard or packet.has_sidedata("new_extradata"):
            return None
        units = [read_unit(unit) for unit in _nal_units(memoryview(packet), length_bytes)]
        found = [unit for unit in units if unit.is_slice]
        is_one_picture = [unit.is_first for unit in found] == [True] + [False] * (len(found) - 1)
        if not is_one_picture or any(unit.is_unknown for unit in units):
            return None
        if len({(unit.is_start, unit.is_disposable, unit.sub_layer) for unit in found}) != 1:
            return None
        slices.append(found[0])
        parameters.append(b"".join(unit.parameters for unit in units))
    if len({*parameters, b""}) > 2:
        return None
    in_band, one_layer = any(parameters), not any(unit.sub_layer for unit in slices)
    pictures = [
        Picture(packet.pts, unit.is_start and bool(own) == in_band, unit.is_disposable and one_layer and not own)
        for packet, unit, own in zip(packets, slices, parameters, strict=True)
        if packet.pts is not None
    ]
    return pictures if _is_shown_in_order(pictures, codec.reorder_depth) else None


def plan_runs(pictures: Sequence[Picture], wanted: Collection[int]) -> list[list[int]]:
    """Numbers of the packets to decode for the pictures at ``wanted``: runs, each to be decoded from a fresh start."""
    starts = [number for number, picture in enumerate(pictures) if picture.is_start]
    spans: list[tuple[int, int]] = []
    for number in wanted:
        # A leading picture is shown before the start it follows, and may refer to what came before that.
        at = bisect.bisect_right(starts, number) - 1
        while pictures[starts[at]].pts > pictures[number].pts:
            at -= 1
        spans.append((starts[at], number))
    runs: list[tuple[int, int]] = []
    for first, last in sorted(spans):
        if runs and first <= runs[-1][1]:
            runs[-1] = (runs[-1][0], max(last, runs[-1][1]))
        else:
            runs.append((first, last))
    return [
        [number for number in range(first, last + 1) if number in wanted or not pictures[number].is_disposable]
        for first, last in runs
    ]


def _is_shown_in_order(pictures: Sequence[Picture], reorder_depth: int) -> bool:
    """Whether the times are those of a stream that begins with its first frame and reorders as the decoder expects."""
    if not pictures[0].is_start:
        return False
    earlier, depth = [], 0
    for picture in pictures:
        at = bisect.bisect_left(earlier, picture.pts)
        if at < len(earlier) and earlier[at] == picture.pts:
            return False
        depth = max(depth, len(earlier) - at)
        earlier.insert(at, picture.pts)
    # Times in decoding order on a stream with B-frames come from a broken muxer.
    return earlier[0] == pictures[0].pts and depth <= reorder_depth and bool(depth) == bool(reorder_depth)


class _Unit(NamedTuple):
    """What the header of a NAL unit tells. ``is_first``: the slice begins a picture."""

    is_slice: bool = False
    is_first: bool = False
    is_start: bool = False
    is_disposable: bool = False
    sub_layer: int = 0
    parameters: bytes = b""
    is_unknown: bool = False


_UNKNOWN = _Unit(is_unknown=True)
_PLAIN = _Unit()


def _nal_units(data: memoryview, length_bytes: int) -> Iterator[memoryview]:
    """Units behind their lengths; what remains of a unit that is cut is given as it is."""
    at = 0
    while at < len(data):
        start = at + length_bytes
        at = start + int.from_bytes(data[at:start], "big")
        yield data[start:at] if at <= len(data) else data[:0]


def _h264_unit(unit: memoryview) -> _Unit:
    kind = unit[0] & 0x1F if len(unit) > 1 else 0
    if kind in (1, 5):  # slices; data partitions (2 to 4) are unknown here
        return _Unit(is_slice=True, is_first=unit[1] >= 0x80, is_start=kind == 5, is_disposable=not unit[0] & 0x60)
    if kind in (7, 8, 13):
        return _Unit(parameters=bytes(unit))
    return _PLAIN if kind in (6, 9, 12) else _UNKNOWN  # messages, delimiters, filling


def _hevc_unit(unit: memoryview) -> _Unit:
    if len(unit) < 3 or unit[0] & 1 or unit[1] >= 8:  # of another layer: stereo, scalable
        return _UNKNOWN
    kind = unit[0] >> 1
    if kind <= 9 or 16 <= kind <= 21:
        is_disposable = kind <= 9 and kind % 2 == 0
        first, layer = unit[2] >= 0x80, (unit[1] & 7) - 1
        return _Unit(
            is_slice=True, is_first=first, is_start=kind >= 16, is_disposable=is_disposable, sub_layer=layer
        )
    if kind in (32, 33, 34):
        return _Unit(parameters=bytes(unit))
    return _PLAIN if kind in (35, 38, 39, 40) else _UNKNOWN


# The name of the codec: how to read a unit, and the byte of the avcC or hvcC record that tells the bytes of a length.
_FORMATS = {"h264": (_h264_unit, 4), "hevc": (_hevc_unit, 21)}
