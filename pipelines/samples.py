"""From the members of one shard to its samples: which member is what, and what is wrong with it.

A sample is a video, or for want of one an image: a video of one frame. An image beside a video is its thumbnail and of
no use, and so is an image that only has a longer name (``k.depth.png`` beside ``k.jpg``).
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pipelines.manifest import FRAMES_SUFFIX, IMAGE_SUFFIXES, OK, VIDEO_SUFFIXES, sample_uid
from pipelines.quarantine import SampleError
from pipelines.tarwalk import Member, ShardError, TarWalk

MAX_TEXT_BYTES = 1 << 20
_TEXT_SUFFIXES = ("json", "txt")
_MOVING = (*VIDEO_SUFFIXES, FRAMES_SUFFIX)
_SUFFIXES = {*_MOVING, *IMAGE_SUFFIXES, *_TEXT_SUFFIXES}
_MAX_SECONDS = 1e9


@dataclasses.dataclass(kw_only=True)
class Media:
    """A video or image as it lies in the shard; ``sha256`` stays "" unless all its bytes are there."""

    offset: int = -1
    num_bytes: int = 0
    sha256: str = ""


@dataclasses.dataclass(kw_only=True)
class Sample:
    """What was found under one key, members by suffix. The first thing wrong with it gives its status."""

    key: str
    status: str = OK
    reason: str = ""
    media: dict[str, Media] = dataclasses.field(default_factory=dict)
    text: dict[str, bytes] = dataclasses.field(default_factory=dict)

    @property
    def shown(self) -> list[str]:
        """Suffixes of the videos, or without any of the images: there should be exactly one."""
        return [suffix for suffix in self.media if suffix in _MOVING] or list(self.media)

    def reject(self, code: str, detail: str) -> None:
        if self.status == OK:
            self.status, self.reason = code, detail

    def row(self, shard: str, shard_bytes: int) -> dict[str, Any]:
        """The sample as a row of the manifest."""
        suffix, *others = self.shown or [""]
        media = self.media.get(suffix, Media())
        if others:
            self.reject("many_videos", " and ".join(self.shown))
        elif suffix and not media.num_bytes:
            self.reject("empty_video", f"at {media.offset}")
        try:
            fields = _describe(self.text)
            if suffix in IMAGE_SUFFIXES and (fields["start_s"] or fields["end_s"]):
                raise SampleError("bad_segment", f"{fields['start_s']} to {fields['end_s']} of an image")
        except SampleError as error:
            self.reject(error.code, error.detail)
            fields = {"video_id": "", "captions": [], "start_s": None, "end_s": None}
        if not suffix:
            self.reject("no_video", f"members: {', '.join(sorted(self.text))}")
        name = self.key.rpartition("/")[2]
        return {
            "uid": sample_uid(shard, self.key),
            "shard": shard,
            "shard_bytes": shard_bytes,
            "key": self.key,
            **fields,
            "video_id": fields["video_id"] or name,
            "video_suffix": suffix,
            "video_offset": media.offset,
            "video_bytes": media.num_bytes,
            "sha256": media.sha256,
            "status": self.status,
            "reason": self.reason,
        }


def collect_samples(chunks: Iterator[bytes]) -> tuple[list[Sample], int, ShardError | None]:
    """(samples in the order of the tar, number of members of no use, the damage that ended the walk)."""
    samples: dict[str, Sample] = {}
    walk, num_ignored, damage = TarWalk(chunks), 0, None
    try:
        for member in walk:
            key, suffix = split_name(_printable(member.name))
            if suffix:
                _add(samples.setdefault(key, Sample(key=key)), suffix, member, walk)
            else:
                num_ignored += 1
    except ShardError as error:
        damage = error
    kept = {key: sample for key, sample in samples.items() if not _is_side_image(sample, samples)}
    num_ignored += sum(len(sample.media) for sample in samples.values())
    num_ignored -= sum(len(sample.shown) for sample in kept.values())
    return list(kept.values()), num_ignored + walk.num_skipped, damage


def _is_side_image(sample: Sample, samples: Mapping[str, Sample]) -> bool:
    """True of an image alone whose key, cut at the first dot as WebDataset does, is that of another sample."""
    folder, slash, name = sample.key.rpartition("/")
    is_image_alone = not sample.text and not any(suffix in _MOVING for suffix in sample.media)
    return is_image_alone and "." in name and f"{folder}{slash}{name.partition('.')[0]}" in samples


def split_name(name: str) -> tuple[str, str]:
    """(key, suffix) of a member, cut at the last dot; the suffix is "" for members that are no part of a sample."""
    folder, slash, base = name.rpartition("/")
    stem, _, suffix = base.rpartition(".")
    if suffix.lower() not in _SUFFIXES or not stem or base.startswith("."):
        return name, ""
    return f"{folder}{slash}{stem}", suffix.lower()


def _add(sample: Sample, suffix: str, member: Member, walk: TarWalk) -> None:
    if "." in sample.key.rpartition("/")[2]:
        sample.reject("dotted_key", f"{sample.key}.{suffix}")
    if suffix in sample.text or suffix in sample.media:
        sample.reject("duplicate_key", f"two members {sample.key}.{suffix}")
        return
    try:
        if suffix not in _TEXT_SUFFIXES:
            sample.media[suffix] = Media(offset=member.offset, num_bytes=member.size)
            sample.media[suffix].sha256 = _sha256(walk.body())
        elif member.size > MAX_TEXT_BYTES:
            sample.text[suffix] = b""
            sample.reject("text_too_large", f"{suffix} of {member.size} bytes, limit {MAX_TEXT_BYTES}")
        else:
            sample.text[suffix] = b"".join(walk.body())
    except ShardError as error:
        if error.code == "cut_member":
            sample.reject("cut_member", f"{suffix} of {member.size} bytes at {member.offset}")
        raise


def _sha256(pieces: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


def _describe(text: dict[str, bytes]) -> dict[str, Any]:
    """video_id, captions and segment from the json and txt members."""
    fields = _parse_json(text["json"]) if text.get("json") else {}
    captions = fields.get("captions", [])
    if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
        raise SampleError("bad_json", "captions is no list of texts")
    if "txt" in text:
        captions = captions + _utf8(text["txt"], "bad_text").splitlines()
    start_s, end_s = _seconds(fields, "start_s"), _seconds(fields, "end_s")
    if end_s is not None and end_s <= (start_s or 0.0):
        raise SampleError("bad_segment", f"{start_s} to {end_s}")
    video_id = fields.get("video_id", "")
    if not isinstance(video_id, (str, int)):
        raise SampleError("bad_json", "video_id is no text")
    told = dict.fromkeys(caption.strip() for caption in captions)
    return {
        "video_id": _printable(str(video_id)),
        "captions": [_printable(caption) for caption in told if caption],
        "start_s": start_s,
        "end_s": end_s,
    }


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


def _printable(text: str) -> str:
    """Text that Arrow can hold: bytes that are not UTF-8 as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()
