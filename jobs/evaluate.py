"""``evaluate``: score a corpus under the evaluation protocol, with all that a result must carry."""

import dataclasses
import hashlib
import json
import statistics
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from cluster.tracking import NO_TRACKING, Tracker, TrackerSpec, open_tracker
from fpig_core.bundle import Bundle
from fpig_core.index import ExactIndex
from fpig_core.metrics import retrieval_metrics, targets_by_id
from fpig_core.metrics_two_stage import two_stage_metrics
from fpig_core.two_stage import search_two_stage
from jobs.cli import Report, launch
from jobs.models import (
    encode_queries,
    encode_rerank_queries,
    load_manifest_of,
    load_model_of,
    read_rerank_columns,
    reranker_of,
)
from jobs.tracking import spool_folder
from pipelines import storage
from pipelines.corpus import NUM_READERS, Corpus, part_files, read_corpus
from pipelines.manifest import Manifest

EXAMPLE = "python -m jobs.evaluate --corpus runs/demo/corpus"
DIRECTIONS = {"t2v": "text to video", "v2t": "video to text"}
NUM_TIMED = 50


@dataclasses.dataclass(frozen=True, kw_only=True)
class Args:
    """Retrieval metrics of a corpus in both directions; ties count against the model."""

    corpus: str
    """Folder or URL of the corpus."""
    manifest: str = ""
    """Manifest with the captions; by default the one that the corpus was made from."""
    model: str = ""
    """Model bundle; by default where it was when it embedded the corpus."""
    queries: Literal["first", "all"] = "first"
    """One caption a video, or every caption (multi-sentence)."""
    column: Literal["vector", "vector_unfused"] = "vector"
    """Which vectors are searched."""
    rerank_top: int = 0
    """How many of the best the model judges once more, by what the corpus keeps of them; 0: one stage."""
    tracking: str = NO_TRACKING
    """MLflow tracking URI, or none."""
    json: str = ""
    """Write the result to this file."""


def main(args: Args) -> Report:
    if args.rerank_top < 0:
        raise ValueError(f"got --rerank-top {args.rerank_top}, wanted 0 for one stage, or a number of candidates")
    corpus = read_corpus(args.corpus, column=args.column)
    manifest = load_manifest_of(corpus.meta, manifest=args.manifest)
    bundle, origin = load_model_of(corpus.meta, model=args.model, tracking=args.tracking)
    uids, texts = choose_queries(corpus, manifest, queries=args.queries)
    target_Q = targets_by_id(uids, corpus.uids)
    measured = measure_two_stages if args.rerank_top else measure_one_stage
    result: dict[str, Any] = {
        "split": Path(manifest.root).name,
        "queries": args.queries,
        "num_queries": len(texts),
        "num_videos": len(corpus.uids),
        "num_captioned_videos": len(target_Q.unique()),
        "num_videos_missing": manifest.num_rows - len(corpus.uids),
        "column": args.column,
        "tie_rule": "pessimistic",
        "normaliser": "none",
        "select_on": selected_on(origin, manifest),
        "model_id": corpus.meta["model_id"],
        "manifest_digest": manifest.digest,
        "chance_r1": 100 / len(corpus.uids),
        "bytes_per_video": bytes_per_video(args.corpus, len(corpus.uids)),
        **measured(args, bundle, corpus, texts=texts, target_Q=target_Q),
    }
    with open_run(args, result) as tracker:
        log_result(tracker, result)
        result["mlflow_run_id"] = tracker.run_id
    show_metrics(result)
    next_command = f'python -m jobs.search --corpus {args.corpus} --query "{texts[0]}"'
    return Report(title=f"Evaluation of {args.corpus}", summary=result, next_command=next_command)


def selected_on(origin: Mapping[str, Any], manifest: Manifest) -> str:
    """Which split selected the model's weights; "test" whenever that was the very set now evaluated on."""
    if origin.get("val_digest") == manifest.digest:
        return "test"
    return str(origin.get("select_on", "unknown"))


def choose_queries(corpus: Corpus, manifest: Manifest, *, queries: str) -> tuple[list[str], list[str]]:
    """Uid and text of each query: captions of the videos that are embedded.

    Raises:
        ValueError: no embedded video has a caption.
    """
    embedded = set(corpus.uids)
    chosen = [
        (uid, caption)
        for rows in manifest.batches(["uid", "captions"])
        for uid, captions in zip(rows["uid"].to_pylist(), rows["captions"].to_pylist(), strict=True)
        if uid in embedded
        for caption in (captions or [])[: 1 if queries == "first" else None]
    ]
    if not chosen:
        raise ValueError(f"got no caption for any embedded video in {manifest.root}; evaluation needs captions")
    uids, texts = zip(*chosen, strict=True)
    return list(uids), list(texts)


def bytes_per_video(corpus_url: str, num_videos: int) -> float:
    """Bytes in storage, file headers and ids included."""
    with ThreadPoolExecutor(NUM_READERS) as pool:
        return sum(pool.map(storage.size, part_files(corpus_url))) / num_videos


def measure_one_stage(
    args: Args, bundle: Bundle, corpus: Corpus, *, texts: list[str], target_Q: Tensor
) -> dict[str, Any]:
    """Metrics of the search by inner product, and how long a search for ten videos takes."""
    index, query_QD = ExactIndex(corpus.vectors), torch.from_numpy(encode_queries(bundle, texts))
    return {
        "first_stage_k": None,
        "ms_per_query": milliseconds_each(lambda text: index.search(encode_queries(bundle, [text]), 10), texts),
        **retrieval_metrics(query_QD, torch.from_numpy(corpus.vectors), target_Q),
    }


def measure_two_stages(
    args: Args, bundle: Bundle, corpus: Corpus, *, texts: list[str], target_Q: Tensor
) -> dict[str, Any]:
    """The same with the best of the first stage reranked, and beside it the metrics of the first stage alone."""
    reranker, index = reranker_of(bundle), ExactIndex(corpus.vectors)
    video = read_rerank_columns(bundle, args.corpus, corpus.meta)

    def search(text: str) -> object:
        query_1D, query = encode_queries(bundle, [text]), encode_rerank_queries(bundle, [text])
        return search_two_stage(index, reranker, query_1D, query, video, first_stage_k=args.rerank_top)

    Console().print(f"Reranking the best {args.rerank_top} for {len(texts)} queries, and as much from video to text")
    metrics, first = two_stage_metrics(
        reranker,
        encode_rerank_queries(bundle, texts),
        video,
        query_QD=torch.from_numpy(encode_queries(bundle, texts)),
        video_BD=torch.from_numpy(corpus.vectors),
        target_Q=target_Q,
        first_stage_k=args.rerank_top,
    )
    return {
        "first_stage_k": args.rerank_top,
        "ms_per_query": milliseconds_each(search, texts),
        **metrics,
        "first_stage": first,
    }


def milliseconds_each(search: Callable[[str], object], texts: list[str]) -> float:
    """Median wall time of one search, one text at a time, its encoding included."""
    times = []
    for text in [texts[0], *texts[:NUM_TIMED]]:
        start = time.perf_counter()
        search(text)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:]) * 1000  # the first search warms up


def open_run(args: Args, result: dict[str, Any]) -> Tracker:
    """One MLflow run per corpus and kind of evaluation."""
    identity = [args.tracking, args.corpus, args.queries, args.column, str(args.rerank_top)]
    identity += [result["model_id"], result["manifest_digest"]]
    digest = hashlib.sha256(json.dumps(["evaluate", *identity]).encode()).hexdigest()[:16]
    name, spool_dir = f"evaluate-{result['split']}", str(spool_folder(digest))
    return open_tracker(TrackerSpec(uri=args.tracking, run_name=name, spool_dir=spool_dir))


def log_result(tracker: Tracker, result: dict[str, Any]) -> None:
    kept = {name: value for name, value in result.items() if isinstance(value, str) or value is None}
    tracker.set_tags(kept)
    values = {
        f"{stage}{direction}/{name.replace('@', '')}": value
        for stage, direction, metrics in each_direction(result)
        for name, value in metrics.items()
    }
    plain = {name: value for name, value in result.items() if isinstance(value, (int, float))}
    if tracker.last_step("num_queries") < 0:
        tracker.log_metrics(values | plain, step=0)


def each_direction(result: dict[str, Any]) -> list[tuple[str, str, dict[str, float]]]:
    """Stage, direction and metrics: of the whole search, stage "", and of its first stage where there are two."""
    stages = {"": result, "first_stage/": result.get("first_stage", {})}
    return [(stage, name, found[name]) for stage, found in stages.items() for name in DIRECTIONS if name in found]


def show_metrics(result: dict[str, Any]) -> None:
    table = Table(title="R@K and SumR in percent, higher is better; MdR and MnR are ranks, lower is better")
    table.add_column("direction")
    for name in result["t2v"]:
        table.add_column(name, justify="right")
    for stage, direction, values in each_direction(result):
        note = ", first stage alone" if stage else ""
        table.add_row(DIRECTIONS[direction] + note, *(f"{value:.1f}" for value in values.values()))
    if result["select_on"] == "test":
        table.caption = "These weights were selected on a test set: the figures are better than those on new data."
    Console().print(table)


def cli() -> None:
    launch(Args, main, example=EXAMPLE)


if __name__ == "__main__":
    cli()
