"""Which packets of an H.264 or HEVC stream must be decoded to see given frames.

Two things leave no mark on the other frames: groups of pictures without a wanted frame, and pictures that no other
refers to (``nal_ref_idc`` 0 in H.264, 7.4.1; the sub-layer non-reference types in HEVC, 7.4.2.2, where there is one
sub-layer). The headers of the NAL units tell both. A stream with anything unusual has to be decoded from front to back.
"""

import bisect
import functools
from collections.abc import Callable, Collection, Sequence
from typing import Literal, NamedTuple

from av.packet import Packet
from av.video.codeccontext import VideoCodecContext

_ORDER_UNKNOWN, _PROGRESSIVE = 0, 1


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
    syntax, record = _SYNTAX.get(codec.name), codec.extradata or b""
    if syntax is None or len(record) <= syntax.length_at or record[0] != 1 or codec.field_order not in syntax.orders:
        return None
    length_bytes = (record[syntax.length_at] & 3) + 1
    found: list[tuple[int, _Unit, bytes]] = []
    for packet in packets:
        if packet.pts is None or packet.is_discard or packet.has_sidedata("new_extradata"):
            return None
        data = memoryview(packet)
        bounds = _unit_bounds(data, length_bytes)
        heads = tuple([int.from_bytes(data[start : start + 3], "big") & syntax.mask for start, _ in bounds])
        content = _read_heads(syntax.read_unit, heads)
        if content is None:
            return None
        parameters = b"".join([data[slice(*bounds[number])] for number in content.parameters])
        found.append((packet.pts, content.slice, parameters))
    in_band = {parameters for _, _, parameters in found if parameters}
    if len(in_band) > 1:
        return None
    one_layer = not any(unit.sub_layer for _, unit, _ in found)
    pictures = [
        Picture(
            pts=pts,
            # A decoder that starts here must meet the parameters that it would have met before.
            is_start=unit.is_start and bool(parameters) == bool(in_band),
            is_disposable=unit.is_disposable and one_layer and not parameters,
        )
        for pts, unit, parameters in found
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
        [
            number
            for number in range(first, last + 1)
            if number == first
            or number in wanted
            or not (pictures[number].is_disposable or pictures[number].pts < pictures[first].pts)
        ]
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
    """What the first bytes of a NAL unit tell. ``is_first``: the slice begins a picture."""

    kind: Literal["slice", "parameters", "message"]
    is_first: bool = False
    is_start: bool = False
    is_disposable: bool = False
    sub_layer: int = 0


class _Content(NamedTuple):
    """The first slice of a packet with one picture, and the numbers of the units that are parameter sets."""

    slice: _Unit
    parameters: tuple[int, ...]


class _Syntax(NamedTuple):
    """``mask``: the bits of a unit's first three bytes that ``read_unit`` needs; it gives None for an unknown unit.

    ``length_at``: the byte of the configuration record (avcC, hvcC) that tells the bytes of a unit's length.
    ``orders``: values of FFmpeg's field order with which a frame has one packet.
    """

    read_unit: "Callable[[int], _Unit | None]"
    mask: int
    length_at: int
    orders: tuple[int, ...]


def _unit_bounds(data: memoryview, length_bytes: int) -> list[tuple[int, int]]:
    """(start, stop) of each unit behind its length; none at all if the last one is cut."""
    bounds, at = [], 0
    while at < len(data):
        start = at + length_bytes
        at = start + int.from_bytes(data[at:start], "big")
        bounds.append((start, at))
    return bounds if at == len(data) else []


@functools.lru_cache(maxsize=1 << 12)
def _read_heads(read_unit: "Callable[[int], _Unit | None]", heads: tuple[int, ...]) -> _Content | None:
    """None unless the units hold exactly one picture, which is disposable as a whole or not at all."""
    units = [unit for unit in map(read_unit, heads) if unit is not None]
    slices = [unit for unit in units if unit.kind == "slice"]
    if len(units) < len(heads) or not slices or not slices[0].is_first:
        return None
    if set(slices[1:]) - {slices[0]._replace(is_first=False)}:
        return None
    return _Content(slices[0], tuple(number for number, unit in enumerate(units) if unit.kind == "parameters"))


def _h264_unit(head: int) -> _Unit | None:
    kind = head >> 16 & 0x1F
    if kind in (1, 5):
        is_reference = bool(head >> 16 & 0x60)
        return _Unit("slice", is_first=bool(head & 0x8000), is_start=kind == 5, is_disposable=not is_reference)
    return _Unit("parameters") if kind in (7, 8, 13) else _Unit("message") if kind in (6, 9, 12) else None


def _hevc_unit(head: int) -> _Unit | None:
    if head >> 11 & 0x103F:  # of another layer (stereo, scalable)
        return None
    kind, sub_layer = head >> 17, (head >> 8 & 7) - 1
    if kind <= 9 or 16 <= kind <= 21:
        is_disposable = kind <= 9 and kind % 2 == 0
        return _Unit("slice", bool(head & 0x80), kind >= 16, is_disposable, sub_layer)
    return _Unit("parameters") if kind in (32, 33, 34) else _Unit("message") if kind in (35, 38, 39, 40) else None


_SYNTAX = {
    "h264": _Syntax(_h264_unit, mask=0xFF8000, length_at=4, orders=(_PROGRESSIVE,)),
    "hevc": _Syntax(_hevc_unit, mask=0xFFFF80, length_at=21, orders=(_ORDER_UNKNOWN, _PROGRESSIVE)),
}
