"""What the text members of a sample tell about it: captions, name and segment."""

import json
from collections.abc import Mapping
from typing import Any

from pipelines.quarantine import SampleError

_MAX_SECONDS = 1e9


def describe(text: Mapping[str, bytes]) -> dict[str, Any]:
    """video_id, captions and segment, from the json and txt members by suffix.

    Captions are the list ``captions`` of the json, as often as it has them, and the lines of the txt that are not among
    them. Without either it is the json's lone ``caption``, as video2dataset and img2dataset write it.

    Raises:
        SampleError: ``bad_json``, ``bad_text`` or ``bad_segment``.
    """
    fields = _parse_json(text["json"]) if text.get("json") else {}
    captions = [caption.strip() for caption in _captions(fields, alone=not text.get("txt", b"").strip())]
    if "txt" in text:
        lines = dict.fromkeys(line.strip() for line in _utf8(text["txt"], "bad_text").splitlines())
        captions += [line for line in lines if line not in captions]
    start_s, end_s = _seconds(fields, "start_s"), _seconds(fields, "end_s")
    if end_s is not None and end_s <= (start_s or 0.0):
        raise SampleError("bad_segment", f"{start_s} to {end_s}")
    video_id = fields.get("video_id", "")
    if not isinstance(video_id, (str, int)):
        raise SampleError("bad_json", "video_id is no text")
    return {
        "video_id": printable(str(video_id)),
        "captions": [printable(caption) for caption in captions if caption],
        "start_s": start_s,
        "end_s": end_s,
    }


def _captions(fields: Mapping[str, Any], *, alone: bool) -> list[str]:
    captions, caption = fields.get("captions"), fields.get("caption")
    if captions is None:
        captions = [caption] if alone and caption is not None else []
    if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
        raise SampleError("bad_json", "captions is no list of texts, or caption no text")
    return captions


def _parse_json(data: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(_utf8(data, "bad_json"))
    except (ValueError, RecursionError) as error:
        raise SampleError("bad_json", str(error)) from error
    if not isinstance(fields, dict):
        raise SampleError("bad_json", f"a {type(fields).__name__}, wanted an object")
    return fields


def _utf8(data: bytes, code: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SampleError(code, str(error)) from error


def _seconds(fields: dict[str, Any], name: str) -> float | None:
    value = fields.get(name)
    if value is None:
        return None
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not 0 <= value < _MAX_SECONDS:
        raise SampleError("bad_segment", f"{name}={value!r}"[:200])
    return float(value)


def printable(text: str) -> str:
    """Text that Arrow can hold: bytes that are not UTF-8 as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()
