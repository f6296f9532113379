"""``search``: find videos of a corpus by text."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console
from rich.table import Table

from cluster.tracking import NO_TRACKING
from fpig_core.bundle import Bundle
from fpig_core.index import ExactIndex
from fpig_core.two_stage import best_first, rerank
from jobs.cli import Report, launch
from jobs.models import (
    encode_queries,
    encode_rerank_queries,
    load_manifest_of,
    load_model_of,
    read_rerank_columns,
    reranker_of,
)
from jobs.text import plain
from pipelines.corpus import Corpus, read_corpus
from pipelines.manifest import Manifest

EXAMPLE = 'python -m jobs.search --corpus runs/demo/corpus --query "a red square moves left"'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Args:
    """Search a corpus by text, exactly: every video is compared. A model that reranks may judge the best once more."""

    corpus: str
    """Folder or URL of the corpus."""
    query: str
    """What to look for, in words."""
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
    if not args.query.strip():
        raise ValueError("got an empty query; say in words what the video shows")
    if args.rerank_top and args.rerank_top < args.top:
        raise ValueError(f"got --rerank-top {args.rerank_top}, wanted 0, or at least --top {args.top}")
    corpus = read_corpus(args.corpus)
    if not corpus.uids:
        raise ValueError(f"the corpus at {args.corpus} holds no video: all samples of its manifest were rejected")
    bundle, _ = load_model_of(corpus.meta, model=args.model, tracking=args.tracking)
    manifest = load_manifest_of(corpus.meta, manifest=args.manifest)
    query_1D = encode_queries(bundle, [args.query])
    scores, positions = ExactIndex(corpus.vectors).search(query_1D, args.rerank_top or args.top)
    if args.rerank_top:
        scores, positions = rerank_found(args, bundle, corpus, positions)
    captions = read_captions(manifest, [corpus.uids[i] for i in positions[0, : args.top]])
    results = describe(corpus, scores[0, : args.top], positions[0, : args.top], captions=captions)
    show_results(args.query, results, num_videos=len(corpus.uids))
    summary = {"query": args.query, "num_videos": len(corpus.uids), "model_id": bundle.model_id}
    summary |= {"first_stage_k": args.rerank_top or None, "results": results}
    return Report(title=f"Search of {args.corpus}", summary=summary)


def read_captions(manifest: Manifest, uids: Sequence[str]) -> dict[str, list[str]]:
    """Captions of some samples by uid."""
    found, wanted = {}, pc.SetLookupOptions(pa.array(uids, pa.string()))
    for rows in manifest.batches(["uid", "captions"]):
        chosen = rows.filter(pc.call_function("is_in", [rows["uid"]], wanted))
        found |= {row["uid"]: row["captions"] or [] for row in chosen.to_pylist()}
    return found


def rerank_found(args: Args, bundle: Bundle, corpus: Corpus, position_1K: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores and positions [1, K] in the Reranker's order; only what the corpus keeps of these videos is read."""
    video = read_rerank_columns(bundle, args.corpus, corpus.meta, rows=position_1K[0])
    query = encode_rerank_queries(bundle, [args.query])
    place_1K = np.arange(position_1K.size)[None]
    score_1K, order_1K = best_first(place_1K, rerank(reranker_of(bundle), query, video, place_1K))
    return score_1K, position_1K[:, order_1K[0]]


def describe(
    corpus: Corpus, score_K: np.ndarray, position_K: np.ndarray, *, captions: dict[str, list[str]]
) -> list[dict[str, Any]]:
    """What there is to say about each video found, in the order given."""
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
        for rank, (value, i) in enumerate(zip(score_K, position_K, strict=True), start=1)
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


def cli() -> None:
    launch(Args, main, example=EXAMPLE)


if __name__ == "__main__":
    cli()
