"""``search``: find videos of a corpus by text."""

import dataclasses
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cluster.tracking import NO_TRACKING
from fpig_core.index import ExactIndex
from jobs.cli import Report, launch
from jobs.models import encode_queries, load_manifest_of, load_model_of
from pipelines.corpus import Corpus, read_corpus
from pipelines.manifest import Manifest

EXAMPLE = 'python -m jobs.search --corpus runs/demo/corpus --query "a red square moves left"'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Args:
    """Search a corpus by text, exactly: every video is compared."""

    corpus: str
    """Folder or URL of the corpus."""
    query: str
    """What to look for, in words."""
    top: int = 5
    """How many videos to show."""
    model: str = ""
    """Model bundle; by default where it was when it embedded the corpus."""
    manifest: str = ""
    """Manifest with the captions; by default the one that the corpus was made from."""
    tracking: str = NO_TRACKING
    """MLflow tracking URI, for a model given as runs:/… or models:/…"""
    json: str = ""
    """Write the result to this file."""


def main(args: Args) -> Report:
    if not args.query.strip():
        raise ValueError("got an empty query; say in words what the video shows")
    corpus = read_corpus(args.corpus)
    if not corpus.uids:
        raise ValueError(f"the corpus at {args.corpus} holds no video: all samples of its manifest were rejected")
    bundle, _ = load_model_of(corpus.meta, model=args.model, tracking=args.tracking)
    captions = read_captions(load_manifest_of(corpus.meta, manifest=args.manifest))
    results = search(corpus, encode_queries(bundle, [args.query]), args.top, captions=captions)
    show_results(args.query, results, num_videos=len(corpus.uids))
    summary = {"query": args.query, "num_videos": len(corpus.uids), "model_id": bundle.model_id, "results": results}
    return Report(title=f"Search of {args.corpus}", summary=summary)


def read_captions(manifest: Manifest) -> dict[str, list[str]]:
    """Captions by uid."""
    columns = (manifest.table.column(name).to_pylist() for name in ("uid", "captions"))
    return {uid: captions or [] for uid, captions in zip(*columns, strict=True)}


def search(corpus: Corpus, query_1D: Any, top: int, *, captions: dict[str, list[str]]) -> list[dict[str, Any]]:
    """The ``top`` best videos of one query, best first."""
    score, position = ExactIndex(corpus.vectors).search(query_1D, top)
    return [
        {
            "rank": rank,
            "score": float(value),
            "video_id": corpus.video_ids[i],
            "shard": corpus.shards[i],
            "key": corpus.keys[i],
            "uid": corpus.uids[i],
            "captions": captions[corpus.uids[i]],
        }
        for rank, (value, i) in enumerate(zip(score[0], position[0], strict=True), start=1)
    ]


def show_results(query: str, results: list[dict[str, Any]], *, num_videos: int) -> None:
    table = Table(title=plain(f"Best of {num_videos} videos for “{query}”"), title_justify="left")
    table.add_column("rank", justify="right")
    table.add_column("score", justify="right")
    for name in ("video", "captions"):
        table.add_column(name, overflow="fold")
    for result in results:
        table.add_row(
            str(result["rank"]),
            f"{result['score']:.3f}",
            plain(result["video_id"]),
            plain("\n".join(result["captions"]) or "(no caption)"),
        )
    Console().print(table)


def plain(text: str) -> Text:
    """Text from outside: no markup, and no control characters that a terminal would obey."""
    return Text("".join(char if char.isprintable() or char == "\n" else " " for char in text))


def cli() -> None:
    launch(Args, main, example=EXAMPLE)


if __name__ == "__main__":
    cli()
