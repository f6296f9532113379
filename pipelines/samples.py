"""From the members of one shard to its samples: which member is what, and what is wrong with it.

A sample is a video, or for want of one an image: a video of one frame. An image beside a video is its thumbnail and of
no use, and so is an image that only has a longer name (``k.depth.png`` beside ``k.jpg``).
"""

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from pipelines.bytesource import ByteSource
from pipelines.describe import describe, printable
from pipelines.downloads import failed_download
from pipelines.manifest import sample_uid
from pipelines.quarantine import OK, SampleError
from pipelines.suffixes import FRAMES_SUFFIX, IMAGE_SUFFIXES, VIDEO_SUFFIXES
from pipelines.tarwalk import Member, ShardError, TarWalk

MAX_TEXT_BYTES = 1 << 20
_TEXT_SUFFIXES = ("json", "txt")
_MOVING = (*VIDEO_SUFFIXES, FRAMES_SUFFIX)
_SUFFIXES = {*_MOVING, *IMAGE_SUFFIXES, *_TEXT_SUFFIXES}


@dataclasses.dataclass(kw_only=True)
class Media:
    """A video or image as it lies in the shard; ``sha256`` stays "" unless all its bytes were read."""

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
            fields = describe(self.text)
            if suffix in IMAGE_SUFFIXES and (fields["start_s"] or fields["end_s"]):
                raise SampleError("bad_segment", f"{fields['start_s']} to {fields['end_s']} of an image")
        except SampleError as error:
            self.reject(error.code, error.detail)
            fields = {"video_id": "", "captions": [], "start_s": None, "end_s": None}
        if not suffix and (failure := failed_download(self.text)):
            self.reject("not_downloaded", printable(failure))
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


NOTES = {
    "scattered": "members of one sample with others between them: readers that go by order cut the sample in two",
    "not_in_tar": "samples that the parquet beside the shard calls downloaded, and that the shard does not hold",
    "mixed_case": "two keys that differ in upper and lower case only: perhaps one sample, cut in two",
}


class Note(NamedTuple):
    """What is no reason to reject, and yet strange: ``code`` of ``NOTES``, how many keys, one of them."""

    code: str
    count: int
    example: str


class Found(NamedTuple):
    """The content of a shard: samples in the order of the tar, members of no use to any, the damage that ended it."""

    samples: list[Sample]
    num_ignored: int
    notes: list[Note]
    damage: ShardError | None


def collect_samples(source: ByteSource, *, with_digests: bool = True) -> Found:
    """Walk through a shard. Without digests only headers and texts are asked for."""
    samples: dict[str, Sample] = {}
    walk, num_ignored, damage = TarWalk(source), 0, None
    runs: list[str] = []
    try:
        for member in walk:
            name = printable(member.name)
            key, suffix = split_name(name)
            if runs[-1:] != [_first_dot_key(name)]:
                runs.append(_first_dot_key(name))
            if suffix:
                _add(samples.setdefault(key, Sample(key=key)), suffix, member, walk, with_digests=with_digests)
            else:
                num_ignored += 1
    except ShardError as error:
        damage = error
    kept = {key: sample for key, sample in samples.items() if not _is_side_image(sample, samples)}
    num_ignored += sum(len(sample.media) for sample in samples.values())
    num_ignored -= sum(len(sample.shown) for sample in kept.values())
    if damage is None and not kept:
        damage = ShardError("no_samples", f"{num_ignored + walk.num_skipped} other members")
    return Found(list(kept.values()), num_ignored + walk.num_skipped, _notes(kept, runs), damage)


def _notes(samples: Mapping[str, Sample], runs: list[str]) -> list[Note]:
    scattered = [key for key, times in Counter(runs).items() if times > 1 and key in samples]
    folded: dict[str, list[str]] = {}
    for key in samples:
        folded.setdefault(key.casefold(), []).append(key)
    mixed = [" and ".join(keys) for keys in folded.values() if len(keys) > 1]
    found = {"scattered": scattered, "mixed_case": mixed}
    return [Note(code, len(keys), keys[0]) for code, keys in found.items() if keys]


def _first_dot_key(name: str) -> str:
    """The key as WebDataset cuts it: at the first dot of the name."""
    folder, slash, base = name.rpartition("/")
    return f"{folder}{slash}{base.partition('.')[0]}"


def _is_side_image(sample: Sample, samples: Mapping[str, Sample]) -> bool:
    """True of an image alone whose key, cut at the first dot as WebDataset does, is that of another sample."""
    is_image_alone = not sample.text and not any(suffix in _MOVING for suffix in sample.media)
    shorter = _first_dot_key(sample.key)
    return is_image_alone and shorter != sample.key and shorter in samples


def split_name(name: str) -> tuple[str, str]:
    """(key, suffix) of a member, cut at the last dot; the suffix is "" for members that are no part of a sample."""
    folder, slash, base = name.rpartition("/")
    stem, _, suffix = base.rpartition(".")
    if suffix.lower() not in _SUFFIXES or not stem or base.startswith("."):
        return name, ""
    return f"{folder}{slash}{stem}", suffix.lower()


def _add(sample: Sample, suffix: str, member: Member, walk: TarWalk, *, with_digests: bool) -> None:
    if "." in sample.key.rpartition("/")[2]:
        sample.reject("dotted_key", f"{sample.key}.{suffix}")
    if suffix in sample.text or suffix in sample.media:
        sample.reject("duplicate_key", f"two members {sample.key}.{suffix}")
        return
    try:
        if suffix not in _TEXT_SUFFIXES:
            sample.media[suffix] = Media(offset=member.offset, num_bytes=member.size)
            if with_digests:
                sample.media[suffix].sha256 = _sha256(walk.body())
            else:
                walk.skip_body()
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
