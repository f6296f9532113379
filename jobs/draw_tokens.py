"""``draw_tokens``: draw which patches of a video the model kept."""

import dataclasses
import io
import itertools
from collections.abc import Iterator

import numpy as np
import torch

from cluster.tracking import NO_TRACKING
from fpig_core.bundle import load_bundle
from fpig_core.drawing import TokenPicture, draw_contact_sheet, kept_patches
from fpig_core.fpig import FPig
from fpig_core.models import method_of
from jobs.cli import Report, launch
from jobs.models import model_folder
from pipelines import storage
from pipelines.guarded import decode_guarded
from pipelines.limits import VideoLimits
from pipelines.manifest import Manifest, load_manifest
from pipelines.manifest_file import is_ok
from pipelines.quarantine import SampleError
from pipelines.reader import read_videos

EXAMPLE = "python -m jobs.draw_tokens --model runs/demo/train/model --manifest runs/demo/shards/test --out tokens.png"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Args:
    """Draw the patches that the token selector kept: one row of frames per video, the other patches faded."""

    model: str
    """Model bundle: folder, URL, or MLflow URI (runs:/…, models:/…)."""
    manifest: str
    """manifest.parquet, or the folder of shards that holds it."""
    out: str
    """PNG file to write."""
    video_id: tuple[str, ...] = ()
    """Videos to draw; by default the first usable ones."""
    num_videos: int = 6
    """How many videos to draw when none is named."""
    tracking: str = NO_TRACKING
    """MLflow tracking URI, for a model given as runs:/… or models:/…"""
    json: str = ""
    """Write the result to this file."""


def main(args: Args) -> Report:
    if not args.out.endswith(".png"):
        raise ValueError(f"got out={args.out!r}, wanted a file that ends in .png")
    manifest = load_manifest(args.manifest)
    rows = choose_rows(manifest, args.video_id, num_videos=args.num_videos)
    with model_folder(args.model, tracking=args.tracking) as folder:
        bundle = load_bundle(folder)
    if not isinstance(bundle.model, FPig):
        raise ValueError(f"got a model of {method_of(bundle.config)}, wanted one of fpig: no other selects tokens")
    pictures, rejected = draw_rows(bundle.model, manifest, rows)
    if not pictures:
        raise ValueError(f"none of the {len(rows)} videos could be read; first reason: {rejected[0]}")
    heading = f"Patches kept by the token selector, model {bundle.model_id}"
    sink = io.BytesIO()
    draw_contact_sheet(pictures, heading=heading).save(sink, "PNG", optimize=True)
    storage.write_bytes(args.out, sink.getvalue())
    summary = {"picture": args.out, "num_videos": len(pictures), "model_id": bundle.model_id, "rejected": rejected}
    return Report(title="Kept tokens", summary=summary | {"num_rejected": len(rejected)})


def choose_rows(manifest: Manifest, video_ids: tuple[str, ...], *, num_videos: int) -> list[int]:
    """Manifest rows to draw: those of the named videos, in that order, or the first usable ones.

    Raises:
        ValueError: a video that isn't in the manifest, or no usable video.
    """
    usable = usable_videos(manifest)
    if not video_ids:
        if not manifest.num_ok or num_videos < 1:
            raise ValueError(f"got {manifest.num_ok} usable videos in {manifest.root} and num_videos={num_videos}")
        return [row for row, _ in itertools.islice(usable, num_videos)]
    row_of: dict[str, int] = {}
    for row, name in usable:
        if name in video_ids:
            row_of.setdefault(name, row)
    if unknown := [name for name in video_ids if name not in row_of]:
        raise ValueError(f"got video id {unknown[0]!r}, which is not a usable video of {manifest.root}")
    return [row_of[name] for name in video_ids]


def usable_videos(manifest: Manifest) -> Iterator[tuple[int, str]]:
    """Row and video id of every sample whose status is ok."""
    start = 0
    for rows in manifest.batches(["status", "video_id"]):
        for row in np.flatnonzero(is_ok(rows)).tolist():
            yield start + row, rows["video_id"][row].as_py()
        start += rows.num_rows


def draw_rows(model: FPig, manifest: Manifest, rows: list[int]) -> tuple[list[TokenPicture], list[str]]:
    """A picture of each readable video, and the reasons of the others."""
    pictures, rejected = [], []
    samples = manifest.take(rows).to_pylist()
    for sample, data in zip(samples, read_videos(manifest, samples), strict=True):
        try:
            pictures.append(draw_video(model, sample, data))
        except SampleError as error:
            rejected.append(f"{sample['video_id']}: {error}")
    return pictures, rejected


def draw_video(
    model: FPig, sample: dict, data: bytes | SampleError, *, limits: VideoLimits = VideoLimits()
) -> TokenPicture:
    """The frames that the model sees of a video, and which patches it kept.

    Raises:
        SampleError: ``data`` is one, or cannot be decoded within ``limits``.
    """
    frame_F3HW = decode_guarded(sample, data, preprocess=model.config.preprocess, limits=limits)
    with torch.inference_mode():
        frame_1F3HW = torch.from_numpy(frame_F3HW)[None].to(next(model.parameters()).device)
        selection = model.encode_video(frame_1F3HW).selection
    encoder = model.video
    kept_FP = kept_patches(
        selection.index_BK[0].cpu().numpy(),
        num_frames=len(frame_F3HW),
        num_patches=encoder.num_patches,
        num_globals=encoder.num_globals,
    )
    caption = next(iter(sample["captions"] or []), "")
    return TokenPicture(title=sample["video_id"], caption=caption, frame_F3HW=frame_F3HW, kept_FP=kept_FP)


def cli() -> None:
    launch(Args, main, example=EXAMPLE)


if __name__ == "__main__":
    cli()
