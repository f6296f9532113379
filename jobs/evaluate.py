"""``evaluate``: score a corpus under the evaluation protocol, with all that a result must carry."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from rich.console import Console

from cluster.tracking import NO_TRACKING
from fpig_core.bootstrap import NUM_RESAMPLES
from fpig_core.bundle import Bundle
from fpig_core.evaluate_encoder import milliseconds_each
from fpig_core.evaluation import (
    FIRST_STAGE,
    MAIN,
    Extras,
    Queries,
    Subject,
    evaluate_ranks,
    normalised_ranks,
)
from fpig_core.index import ExactIndex
from fpig_core.metrics_two_stage import rank_two_stages
from fpig_core.models import method_of, model_config_to_dict
from fpig_core.normalisers import NormaliserName
from fpig_core.ranks import Ranks, VectorScores, rank_both, targets_by_id
from fpig_core.retrieval import encode_queries, encode_rerank_queries, reranker_of
from fpig_core.two_stage import search_two_stage
from jobs.cli import Report, launch
from jobs.evaluation_output import show_metrics, write_outputs
from jobs.models import load_model_of
from jobs.query_sets import CHOICES, Choice, choose_queries, read_bank, read_categories
from jobs.report_pictures import Search
from jobs.revision import code_revision
from pipelines import storage
from pipelines.corpus import NUM_READERS, Corpus, manifest_of, part_files, read_corpus
from pipelines.datasets.consistency import read_mark
from pipelines.manifest import Manifest
from pipelines.second_stage import read_rerank_columns

EXAMPLE = "python -m jobs.evaluate --corpus runs/demo/corpus --json runs/demo/evaluate.json"
NUM_TIMED = 50
NUM_FOUND = 10
FEW_QUERIES = 100
DATASET_FIELDS = ("dataset", "protocol", "split", "published_videos", "num_to_write")
LINEAGE = ("mlflow_run_id", "model_run_id", "model_uri", "code_revision", "precision", "dtype", "preprocess_digest")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Args:
    """Retrieval metrics of a corpus in both directions, with intervals and costs; ties count against the model.

    With --json the ranks of all queries and an HTML report are written beside it; python -m jobs.compare takes the JSON
    files of several results.
    """

    corpus: str
    """Folder or URL of the corpus."""
    manifest: str = ""
    """Manifest with the captions; by default the one that the corpus was made from."""
    model: str = ""
    """Model bundle; by default where it was when it embedded the corpus."""
    queries: Choice | Literal["protocol"] = "protocol"
    """One caption a video, every caption (multi-sentence), or all captions of a video as one (paragraph). By default
    what the protocol of the data set asks for (``_DATASET.json`` beside the shards), and one caption without it."""
    column: Literal["vector", "vector_unfused"] = "vector"
    """Which vectors are searched."""
    rerank_top: int = 0
    """How many of the best the model judges once more, by what the corpus keeps of them; 0: one stage."""
    normalisers: tuple[NormaliserName, ...] = ()
    """Beside the plain result, results that look at other queries too. They do not exist in live search."""
    bank: str = ""
    """For qb_norm: corpus of another set by the same model, as a rule the training set."""
    categories: str = ""
    """Table with columns video_id and category (or MSR-VTT's json), for metrics of each category."""
    resamples: int = NUM_RESAMPLES
    """Resamples of the bootstrap, for 95% intervals."""
    report: str = ""
    """HTML file to write; by default beside --json; none: no report."""
    examples: int = 5
    """How many of the best and of the worst queries the report shows."""
    tracking: str = NO_TRACKING
    """MLflow tracking URI, or none."""
    json: str = ""
    """Write the result to this file."""

    def __post_init__(self) -> None:
        if self.rerank_top < 0:
            raise ValueError(f"got --rerank-top {self.rerank_top}, wanted 0 for one stage, or a number of candidates")
        if self.rerank_top and self.normalisers:
            raise ValueError(
                "got --rerank-top and --normalisers; a second stage has no scores of all pairs to normalise"
            )
        if ("qb_norm" in self.normalisers) != bool(self.bank):
            raise ValueError(
                f"got --normalisers {self.normalisers} and --bank {self.bank!r}; qb_norm and a bank go together"
            )
        if self.json and not self.json.endswith(".json"):
            raise ValueError(
                f"got --json {self.json}, wanted a file that ends in .json: ranks and report stand beside it"
            )
        if self.examples < 0:
            raise ValueError(f"got --examples {self.examples}, wanted 0 or more")


def main(args: Args) -> Report:
    corpus = read_corpus(args.corpus, column=args.column)
    manifest = manifest_of(args.corpus, corpus.meta, manifest=args.manifest)
    bundle, origin = load_model_of(corpus.meta, model=args.model, tracking=args.tracking)
    dataset = read_mark(manifest.root)
    asked = CHOICES[dataset["protocol"]] if dataset else "first"
    choice = asked if args.queries == "protocol" else args.queries
    queries = choose_queries(corpus.uids, manifest, queries=choice)
    extras = Extras(
        normalisers=args.normalisers,
        bank=read_bank(args.bank, bundle, column=args.column) if args.bank else None,
        categories=read_categories(args.categories, corpus) if args.categories else {},
        num_resamples=args.resamples,
    )
    subject = Subject(
        model_id=corpus.meta["model_id"],
        data_id=manifest.digest,
        split=Path(manifest.root).name,
        queries=choice,
        select_on=selected_on(origin, manifest),
        first_stage_k=args.rerank_top or None,
    )
    measured = measure_two_stages if args.rerank_top else measure_one_stage
    ranks, search = measured(args, bundle, corpus, queries=queries, extras=extras)
    judged = evaluate_ranks(queries, corpus.uids, ranks, subject=subject, extras=extras)
    speed = corpus.meta.get("speed")
    judged.result.update(
        {
            "method": method_of(bundle.config),
            "column": args.column,
            "dataset": {name: dataset[name] for name in DATASET_FIELDS} if dataset else None,
            "num_videos_missing": manifest.num_rows - len(corpus.uids),
            "bytes_per_video": bytes_per_video(args.corpus, len(corpus.uids)),
            "ms_per_query": milliseconds_each(lambda text: search([text]), queries.texts[:NUM_TIMED]),
            "videos_per_s": speed["num_videos"] / speed["seconds"] if speed else None,
            "measured_on": {"query": device_name(bundle), "embedding": speed},
            "lineage": {
                "corpus": args.corpus,
                "manifest": manifest.root,
                "model": args.model or corpus.meta["model"],
                "model_config": model_config_to_dict(bundle.config),
                "model_origin": origin,
                "evaluated_by": code_revision(),
                "embedding": {name: corpus.meta[name] for name in LINEAGE if name in corpus.meta},
            },
        }
    )
    judged.result["warnings"] = warnings_of(judged.result, asked=asked)
    identity = {name: value for name, value in vars(args).items() if name not in ("json", "report", "examples")}
    write_outputs(
        judged,
        json_path=args.json,
        report_path=args.report,
        tracking=args.tracking,
        run_key=run_key(identity, judged.result),
        num_examples=args.examples,
        sources=(search, bundle, corpus, manifest),
    )
    show_metrics(judged.result)
    return Report(title=f"Evaluation of {args.corpus}", summary=judged.result, next_command=next_command(args, queries))


def selected_on(origin: Mapping[str, Any], manifest: Manifest) -> str:
    """Which split selected the model's weights; "test" whenever that was the very set now evaluated on."""
    if origin.get("val_digest") == manifest.digest:
        return "test"
    return str(origin.get("select_on", "unknown"))


def measure_one_stage(
    args: Args, bundle: Bundle, corpus: Corpus, *, queries: Queries, extras: Extras
) -> tuple[dict[str, Ranks], Search]:
    """Ranks of the search by inner product, plain and normalised, and the search itself."""
    index, target_Q = ExactIndex(corpus.vectors), targets_by_id(queries.video_ids, corpus.uids)
    query_QD, video_BD = torch.from_numpy(encode_queries(bundle, queries.texts)), torch.from_numpy(corpus.vectors)
    ranks = {MAIN: rank_both(VectorScores(query_QD, video_BD), target_Q)}
    ranks |= normalised_ranks(query_QD, video_BD, target_Q, extras=extras)
    return ranks, lambda texts: index.search(encode_queries(bundle, texts), NUM_FOUND)[1]


def measure_two_stages(
    args: Args, bundle: Bundle, corpus: Corpus, *, queries: Queries, extras: Extras
) -> tuple[dict[str, Ranks], Search]:
    """Ranks with the best of the first stage reranked, beside them those of the first stage alone, and the search."""
    reranker, index = reranker_of(bundle), ExactIndex(corpus.vectors)
    video = read_rerank_columns(bundle, args.corpus, corpus.meta)

    def search(texts: list[str]) -> np.ndarray:
        query_QD, query = encode_queries(bundle, texts), encode_rerank_queries(bundle, texts)
        return search_two_stage(index, reranker, query_QD, query, video, first_stage_k=args.rerank_top)[1]

    num_queries = len(queries.texts)
    Console().print(f"Reranking the best {args.rerank_top} for {num_queries} queries, and as much from video to text")
    both, first = rank_two_stages(
        reranker,
        encode_rerank_queries(bundle, queries.texts),
        video,
        query_QD=torch.from_numpy(encode_queries(bundle, queries.texts)),
        video_BD=torch.from_numpy(corpus.vectors),
        target_Q=targets_by_id(queries.video_ids, corpus.uids),
        first_stage_k=args.rerank_top,
    )
    return {MAIN: both, FIRST_STAGE: first}, search


def bytes_per_video(corpus_url: str, num_videos: int) -> float:
    """Bytes in storage, file headers and ids included."""
    with ThreadPoolExecutor(NUM_READERS) as pool:
        return sum(pool.map(storage.size, part_files(corpus_url))) / num_videos


def device_name(bundle: Bundle) -> str:
    """Where queries were encoded."""
    device = next(bundle.model.parameters()).device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"


def warnings_of(result: Mapping[str, Any], *, asked: Choice) -> list[str]:
    """What a reader must know so as not to misread the figures. ``asked``: the queries of the data set's protocol."""
    found = []
    if dataset := result["dataset"]:
        if result["queries"] != asked:
            told = f"The protocol of {dataset['dataset']} is {dataset['protocol']}"
            found.append(f"{told} (queries: {asked}), these are queries: {result['queries']}.")
        if (published := dataset["published_videos"]) and published != dataset["num_to_write"]:
            found.append(f"{dataset['dataset']} has {published} videos here, {dataset['num_to_write']} were imported.")
    if result["select_on"] == "test":
        found.append("The weights were selected on a test set: the figures are better than those on new data.")
    if result["select_on"] == "unknown":
        found.append("Nothing tells on which split the weights were selected.")
    found += [
        f"{name} looks at the queries of others before it ranks: that does not exist in live search."
        for name in result.get("normalised", {})
    ]
    if missing := result["num_videos_missing"]:
        found.append(f"Videos that could not be embedded: {missing}. Nobody searched for them or among them.")
    if silent := result["num_videos"] - result["num_captioned_videos"]:
        found.append(f"Videos without a caption: {silent}. They are candidates, and no query describes them.")
    if ambiguous := result["num_ambiguous_queries"]:
        told = f"Queries with the very text of a query about another video: {ambiguous}."
        found.append(f"{told} No model can tell these apart.")
    if result["num_queries"] < FEW_QUERIES:
        found.append(f"Queries in all: {result['num_queries']}. Look at the intervals.")
    return found


def run_key(identity: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    """One MLflow run per corpus and kind of evaluation."""
    known = [identity, result["model_id"], result["manifest_digest"]]
    return hashlib.sha256(json.dumps(["evaluate", *known], sort_keys=True, default=str).encode()).hexdigest()[:16]


def next_command(args: Args, queries: Queries) -> str:
    if args.json:
        return f"python -m jobs.compare {args.json} OTHER.json --html compare.html"
    return f'python -m jobs.search --corpus {args.corpus} --query "{queries.texts[0]}"'


def cli() -> None:
    launch(Args, main, example=EXAMPLE)


if __name__ == "__main__":
    cli()
