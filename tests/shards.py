"""The first steps of the demo in small, by the jobs themselves: videos, shards, manifests."""

from pathlib import Path

from jobs import index_shards, make_synthetic, write_shards


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
