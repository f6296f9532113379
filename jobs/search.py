"""``search``: find videos of a corpus by text, or by another video."""

import dataclasses
import json
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from cluster.tracking import NO_TRACKING
from jobs.cli import Report, launch
from jobs.models import load_model_of
from jobs.text import plain
from pipelines.filters import parse_condition
from pipelines.searcher import Found, Searcher, corpus_of

EXAMPLE = 'python -m jobs.search --corpus runs/demo/corpus --query "a red square moves left"'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Args:
    """Search a corpus by text, or for videos like one of its own. A model that reranks may judge the best once more."""

    corpus: str = ""
    """Folder or URL of the corpus: every video is compared."""
    index: str = ""
    """Folder or URL of an index of the corpus, as build_index writes it, in place of --corpus."""
    query: str = ""
    """What to look for, in words."""
    like: str = ""
    """Look for videos like this one: a uid or video_id, in place of --query."""
    where: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Only videos that meet this condition: "duration_s >= 10" or "category in news,sports"; may be repeated."""
    top: int = 5
    """How many videos to show."""
    rerank_top: int = 0
    """How many of the best the model judges once more, by what the corpus keeps of them; 0: one stage."""
    model: str = ""
    """Model bundle; by default where it was when it embedded the corpus."""
    manifest: str = ""
    """Manifest with the captions; by default the one that the corpus was made from."""
    tracking: str = NO_TRACKING
    """MLflow tracking URI, for a model given as runs:/… or models:/…"""
    json: str = ""
    """Write the result to this file."""


def main(args: Args) -> Report:
    if bool(args.query.strip()) == bool(args.like):
        raise ValueError("got an empty query; give --query with words, or --like with a video, and only one of both")
    if args.like and args.rerank_top:
        raise ValueError("got --like and --rerank-top, but a second stage judges texts; leave one of both out")
    if bool(args.corpus) == bool(args.index):
        raise ValueError("give --corpus to compare every video, or --index, and only one of both")
    url = args.corpus or args.index
    where = [parse_condition(text) for text in args.where]
    bundle, _ = load_model_of(corpus_of(url)[1], model=args.model, tracking=args.tracking)
    searcher = Searcher.open(url, bundle=bundle, manifest=args.manifest)
    if args.like:
        found = searcher.like(args.like, top=args.top, where=where)
    else:
        found = searcher.search([args.query], top=args.top, where=where, rerank_top=args.rerank_top)[0]
    show_found(args.query or f"like {args.like}", found, num_videos=searcher.num_videos)
    summary = {"query": args.query or None, "like": args.like or None, "where": [str(each) for each in where]}
    summary |= {"num_videos": searcher.num_videos, "model_id": searcher.model_id}
    summary |= {"first_stage_k": args.rerank_top or None, "results": [as_json(each) for each in found]}
    return Report(title=f"Search of {url}", summary=summary)


def as_json(found: Found) -> dict[str, Any]:
    """Plain values; dates become text."""
    return json.loads(json.dumps(dataclasses.asdict(found), default=str))


def show_found(title: str, found: list[Found], *, num_videos: int) -> None:
    table = Table(title=plain(f"Best of {num_videos} videos for “{title}”"), title_justify="left")
    table.add_column("rank", justify="right")
    table.add_column("score", justify="right")
    for name in ("video", "captions"):
        table.add_column(name, overflow="fold")
    for each in found:
        captions = "\n".join(each.captions) or "(no caption)"
        table.add_row(str(each.rank), f"{each.score:.3f}", plain(each.video_id), plain(captions))
    Console().print(table)


def cli() -> None:
    launch(Args, main, example=EXAMPLE)


if __name__ == "__main__":
    cli()
