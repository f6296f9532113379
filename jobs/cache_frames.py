"""Decode the videos of a manifest once, into a shard set that training and embedding take in its place."""

import dataclasses
from collections import Counter
from typing import Annotated

import tyro

from jobs.budget import parse_fraction
from jobs.cli import DONE, OVER_BUDGET, Report, launch
from jobs.shard_progress import write_missing
from pipelines import storage
from pipelines.frame_cache import FrameStore, finish_cache, plan_cache, write_settings
from pipelines.manifest import load_manifest
from pipelines.shard_set import claim_set

EXAMPLE = "python -m jobs.cache_frames --manifest runs/mine/shards/train --out runs/mine/frames/train"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Args:
    """Write OUT with the shards, keys and captions of a manifest, and stored frames in place of the videos.

    Evaluation sees the same frames as from the videos; training's jitter chooses among the stored ones. The same
    command again writes what is missing, and nothing else.
    """

    manifest: str
    """manifest.parquet, or the folder of shards that holds it."""
    out: str
    """Folder or URL of the stored frames; give it as --data.train or --manifest."""
    store: Annotated[FrameStore, tyro.conf.arg(name="")] = FrameStore()
    num_workers: int = 0
    """Shards written at the same time, on the Ray cluster if there are more than one; 0 chooses by the amount of work,
    and does a little in this process."""
    max_rejected: str = "1%"
    """Error budget: with a larger part of the videos rejected, the job ends with exit code 3."""
    json: str = ""
    """Also write the summary to this file."""


def main(args: Args) -> Report:
    if args.num_workers < 0:
        raise ValueError(f"got --num-workers {args.num_workers}, wanted at least 0")
    budget = parse_fraction(args.max_rejected)
    manifest = load_manifest(args.manifest)
    if storage.absolute(args.out) == storage.absolute(manifest.root):
        raise ValueError(f"got --out {args.out}, which holds the videos; choose another folder")
    storage.require_writable(args.out)
    tasks = plan_cache(manifest, args.out, store=args.store)
    claim_set(tasks)
    write_settings(args.out, manifest, store=args.store)
    write_missing([tasks], num_workers=args.num_workers, is_heavy=True)
    found = finish_cache(manifest, tasks)
    cached = load_manifest(args.out)
    num_rejected = len(found.rejected)
    is_over = num_rejected > budget * manifest.num_rows
    summary: dict = {
        "out": args.out,
        "num_samples": manifest.num_rows,
        "num_stored": found.num_samples,
        "num_rejected": num_rejected,
        "frames_per_video": args.store.preprocess.num_frames,
        "num_bytes": found.num_bytes,
        "source_bytes": sum(task.num_bytes for task in tasks),
        "digest": cached.digest,
        "rejected": dict(sorted(Counter(reject.reason for reject in found.rejected).items())),
    }
    summary |= {f"rejected: {reason}": count for reason, count in summary["rejected"].items()}
    if not found.written:
        summary["note"] = "already there"
    if is_over:
        summary["budget"] = f"exceeded: {num_rejected} of {manifest.num_rows} rejected, {budget:.2%} allowed"
    return Report(
        title=f"Frames {args.out}",
        summary=summary,
        next_command=f"python -m jobs.train RECIPE --data.train {args.out}",
        exit_code=OVER_BUDGET if is_over else DONE,
    )


def cli() -> None:
    launch(Args, main, example=EXAMPLE)


if __name__ == "__main__":
    cli()
