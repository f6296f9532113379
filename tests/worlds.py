"""Small worlds for tests of the embedding and of the jobs that use a corpus: shards, a model, a corpus."""

import dataclasses
import hashlib
import io
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from fpig_core.backbone import Backbone
from fpig_core.bundle import save_bundle
from fpig_core.fpig import FPig, FPigConfig, VideoFeatures
from fpig_core.models import Method
from fpig_core.preprocess import Preprocess
from pipelines.columns import Column
from pipelines.commit import commit
from pipelines.manifest import MANIFEST_SCHEMA, Manifest, sample_uid, save_manifest
from pipelines.part_files import Tally, count_parts
from pipelines.part_plan import plan_parts
from pipelines.parts import CorpusSpec, Written, part_bytes, quarantine_bytes
from pipelines.synthetic import encode

PREPROCESS = Preprocess(num_frames=3, size=32)
SHARD_ROWS = 8
MOVES = ("moves left", "moves right", "grows", "shrinks", "blinks")
COLOURS = ("red", "green", "blue", "white", "black", "yellow", "pink")


def caption_of(number: int) -> str:
    """Different for the first 35 numbers."""
    return f"a {COLOURS[number % 7]} square {MOVES[number % 5]}"


def video_bytes(number: int, *, num_frames: int = 6, size: int = 32) -> bytes:
    rng = np.random.default_rng(number)
    return encode(rng.integers(0, 256, (num_frames, size, size, 3), np.uint8))


def write_shards(
    root: Path,
    num_rows: int,
    *,
    flaws: Mapping[int, str] | None = None,
    film: Callable[[int], bytes] = video_bytes,
) -> Manifest:
    """A shard set with its manifest. A flaw is a reason code: ``no_video``, ``bad_container`` or ``changed_bytes``."""
    flaws, rows = flaws or {}, []
    root.mkdir(parents=True, exist_ok=True)
    for start in range(0, num_rows, SHARD_ROWS):
        shard = f"shard-{start // SHARD_ROWS:06d}.tar"
        with tarfile.open(root / shard, "w", format=tarfile.USTAR_FORMAT) as tar:
            for number in range(start, min(start + SHARD_ROWS, num_rows)):
                flaw = flaws.get(number, "ok")
                data = b"no video at all" * 9 if flaw == "bad_container" else film(number)
                offset = tar.offset + tarfile.BLOCKSIZE
                member = tarfile.TarInfo(f"{number:06d}.mp4")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
                rows.append(_row(shard, number, data, offset=offset, flaw=flaw))
    for row in rows:
        row["shard_bytes"] = (root / row["shard"]).stat().st_size
    return save_manifest(str(root), pa.Table.from_pylist(rows, schema=MANIFEST_SCHEMA))


def _row(shard: str, number: int, data: bytes, *, offset: int, flaw: str) -> dict:
    key = f"{number:06d}"
    return {
        "uid": sample_uid(shard, key),
        "shard": shard,
        "key": key,
        "video_id": f"video{number}",
        "video_suffix": "mp4",
        "video_offset": offset,
        "video_bytes": len(data),
        "captions": [caption_of(number), f"video number {number}"],
        "start_s": None,
        "end_s": None,
        "sha256": hashlib.sha256(data + (b"!" if flaw == "changed_bytes" else b"")).hexdigest(),
        "status": "no_video" if flaw == "no_video" else "ok",
        "reason": "made so" if flaw == "no_video" else "",
    }


def write_model(folder: Path, *, seed: int = 0) -> str:
    """A tiny F-Pig with random weights -> its ``model_id``."""
    torch.manual_seed(seed)
    config = FPigConfig(backbone=Backbone(name="tiny"), preprocess=PREPROCESS, num_selected=4)
    return save_bundle(folder, FPig(config))


@dataclasses.dataclass(frozen=True, kw_only=True)
class JudgeConfig(FPigConfig):
    """Settings of ``Judge``."""


class Judge(FPig):
    """A tiny model that reranks: by the best of a video's frame vectors, which a corpus must keep."""

    rerank_columns = ("frame_vectors",)
    optional_rerank_columns = ()

    def columns(self, video: VideoFeatures) -> dict[str, Tensor]:
        frame_BFD = video.unfused_BD[:, None].expand(-1, PREPROCESS.num_frames, -1)
        return super().columns(video) | {"frame_vectors": frame_BFD}

    def encode_query(self, word_QL: Tensor) -> dict[str, Tensor]:
        return {"text": self.encode_text(word_QL)}

    def score(self, query: dict[str, Tensor], video: dict[str, Tensor]) -> Tensor:
        return torch.einsum("nd,nfd->nf", query["text"], video["frame_vectors"]).amax(dim=1)


def write_judge(folder: Path) -> str:
    """A ``Judge`` with random weights -> its ``model_id``. ``METHODS["judge"]`` must be ``JUDGE`` to load it."""
    torch.manual_seed(0)
    return save_bundle(
        folder, Judge(JudgeConfig(backbone=Backbone(name="tiny"), preprocess=PREPROCESS, num_selected=4))
    )


JUDGE = Method(JudgeConfig, Judge)


def write_corpus(
    url: str,
    manifest: Manifest,
    vector_BD: np.ndarray,
    *,
    model_id: str,
    model: str,
    rejected: tuple[int, ...] = (),
    further: Mapping[str, np.ndarray] | None = None,
) -> None:
    """A complete corpus with given vectors and further columns, a row for each manifest row.

    The rows ``rejected`` go to quarantine.
    """
    values = {"vector": vector_BD} | dict(further or {})
    spec = CorpusSpec(
        model_id=model_id,
        preprocess_digest="any",
        columns=tuple(Column(name=name, shape=value.shape[1:]) for name, value in values.items()),
        dtype="float32",
        part_rows=4,
    )
    parts, written = (
        plan_parts(manifest, spec.digest, part_rows=spec.part_rows),
        Written(manifest_digest=manifest.digest),
    )
    for part in parts:
        ok = [row for row in range(part.start, part.stop) if row not in rejected]
        bad = [row for row in range(part.start, part.stop) if row in rejected]
        why = {"stage": ["read"] * len(bad), "reason": ["short_read"] * len(bad), "detail": [""] * len(bad)}
        files = {
            part.quarantine_url(url): quarantine_bytes(
                spec, manifest.table.take(pa.array(bad, pa.int64())), why, written=written
            ),
            part.url(url): part_bytes(
                spec,
                manifest.table.take(pa.array(ok, pa.int64())),
                {name: value[ok] for name, value in values.items()},
                written=written,
            ),
        }
        for file, data in files.items():
            Path(file).parent.mkdir(parents=True, exist_ok=True)
            Path(file).write_bytes(data)
    lineage = {"manifest": manifest.root, "model": model}
    counts = Tally(parts, count_parts(url, parts))
    commit(url, spec=spec, manifest=manifest, parts=parts, counts=counts, written=written, lineage=lineage)
