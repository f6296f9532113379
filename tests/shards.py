"""The first steps of the demo in small, by the jobs themselves: videos, shards, manifests."""

from pathlib import Path

from jobs import index_shards, make_synthetic, write_shards
from pipelines.annotations import Record
from pipelines.shard_pool import write_here
from pipelines.shard_set import SetReport, claim_set, find_receipts, finish_set
from pipelines.shards import plan_shard_set
from pipelines.sources import Source


def make_shards(folder: Path, url: str, *, train: int = 1, val: int = 1, test: int = 1, corrupt: int = 0) -> None:
    """Synthetic videos under ``folder``, as shard sets with manifests at ``url``/train, val and test."""
    make_synthetic.main(
        make_synthetic.Args(
            out=str(folder), train=train, val=val, test=test, corrupt=corrupt, size=32, frames=6, workers=1
        )
    )
    videos, captions = str(folder / "videos"), str(folder / "captions.csv")
    write_shards.main(write_shards.Args(videos=videos, captions=captions, out=url))
    index_shards.main(index_shards.Args(root=url))


def write_set(records: list[Record], url: str, *, videos: Path, shard_bytes: int = 1 << 28) -> SetReport:
    """One shard set of the records whose videos lie in a local folder."""
    sources = [
        Source(record, str(videos / record.path), (videos / record.path).stat().st_size, "") for record in records
    ]
    tasks = plan_shard_set(sources, url, shard_bytes=shard_bytes)
    claim_set(tasks)
    known = find_receipts(tasks)
    assert len(list(write_here([task for task in tasks if task.name not in known]))) == len(tasks) - len(known)
    return finish_set(tasks)
