"""Make a small world of captioned videos to learn and test in."""

import dataclasses
import os

from rich.progress import Progress

from jobs.cli import Report, launch
from pipelines import storage
from pipelines.synthetic import CAPTIONS_NAME, World, write_world
from pipelines.synthetic_stills import STILLS_NAME, TABLE_NAME, Stills, write_stills


@dataclasses.dataclass(frozen=True, kw_only=True)
class Args:
    """Write OUT/videos/*.mp4 (H.264) and OUT/captions.csv, and by option stills for the stage before retrieval.

    The same settings give the same bytes; a rerun continues.
    """

    out: str
    train: int = 600
    val: int = 100
    test: int = 200
    corrupt: int = 2
    """Broken videos added to the test split: damaged ones and ones without frames, in turn."""
    stills: int = 0
    """Captioned stills to write to OUT/stills/*.jpg and OUT/stills.csv, one in ten of them for validation."""
    seed: int = 0
    size: int = 96
    """Height and width in pixels."""
    frames: int = 24
    """Frames in a video, twelve to the second."""
    workers: int = os.cpu_count() or 1
    json: str = ""
    """Also write the summary to this file."""


def main(args: Args) -> Report:
    world = World(
        num_train=args.train,
        num_val=args.val,
        num_test=args.test,
        num_corrupt=args.corrupt,
        seed=args.seed,
        size=args.size,
        num_frames=args.frames,
    )
    stills = Stills(count=args.stills, seed=args.seed, size=args.size) if args.stills else None
    if args.workers < 1:
        raise ValueError(f"got --workers {args.workers}, wanted at least 1")
    with Progress(transient=True) as bar:
        task = bar.add_task("videos", total=None)
        written = write_world(
            args.out,
            world,
            num_workers=args.workers,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
        if stills:
            task = bar.add_task("stills", total=args.stills)
            written |= write_stills(
                args.out,
                stills,
                num_workers=args.workers,
                progress=lambda done, total: bar.update(task, completed=done, total=total),
            )
    commands = []
    if args.train or args.val or args.test or args.corrupt:
        commands.append(_pack(args.out, "videos", CAPTIONS_NAME, "shards"))
    if stills:
        commands.append(_pack(args.out, STILLS_NAME, TABLE_NAME, "still_shards"))
    return Report(
        title="Synthetic world" if written else "Synthetic world: already there, nothing to do",
        summary={
            "out": args.out,
            "written": written,
            "train": args.train,
            "val": args.val,
            "test": args.test,
            "corrupt": args.corrupt,
            "stills": args.stills,
            "seed": args.seed,
        },
        next_command=" && ".join(commands),
    )


def _pack(out: str, folder: str, table: str, shards: str) -> str:
    """The command that makes shards of a folder and its table."""
    videos, captions, target = (storage.join(out, name) for name in (folder, table, shards))
    return f"python -m jobs.write_shards --videos {videos} --captions {captions} --out {target}"


def cli() -> None:
    launch(Args, main, example="python -m jobs.make_synthetic --out runs/world")


if __name__ == "__main__":
    cli()
