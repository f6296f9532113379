"""``build_index``: an index of a corpus, for searches that need not read every vector."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from rich.console import Console
from rich.table import Table

from cluster.tracking import NO_TRACKING
from fpig_core.index_kinds import Kind
from fpig_core.retrieval import encode_queries
from jobs.cli import Report, launch
from jobs.models import load_model_of
from pipelines.columns import VECTOR
from pipelines.corpus import manifest_of, read_columns, read_committed
from pipelines.search_index_build import Trial, build_index
from pipelines.search_rows import corpus_uids, rows_of, with_metadata

EXAMPLE = "python -m jobs.build_index --corpus runs/demo/corpus --out runs/demo/index --kind flat"
NUM_QUERIES = 200


@dataclasses.dataclass(frozen=True, kw_only=True)
class Args:
    """Build an index of a corpus, measure what it finds of the exact best ten, and replace the one that was there."""

    corpus: str
    """Folder or URL of the corpus."""
    out: str
    """Folder or URL of the index."""
    kind: Kind = "flat"
    """What the first stage keeps; its best are scored exactly. flat: every vector is compared, nothing is lost.
    fastscan, binary, int8: all vectors in 4 bits for two numbers, 1 bit or 8 bits a number. ivf: lists of neighbours
    in the codes of fastscan. hnsw: a graph over 8 bits a number, slow to build."""
    metadata: str = ""
    """Parquet, CSV or TSV table with a column video_id; its other columns can then be searched by --where."""
    min_recall: float = 0.99
    """Share of the exact best ten that must be found; the least effort that finds it is stored with the index."""
    queries: Literal["captions", "videos"] = "captions"
    """What recall is measured on: captions of the videos, encoded by the model, or the videos' own vectors."""
    model: str = ""
    """Model bundle; by default where it was when it embedded the corpus."""
    manifest: str = ""
    """Manifest of the corpus; by default the one that it was made from."""
    tracking: str = NO_TRACKING
    """MLflow tracking URI, for a model given as runs:/… or models:/…"""
    json: str = ""
    """Write the result to this file."""

    def __post_init__(self) -> None:
        if not 0 <= self.min_recall <= 1:
            raise ValueError(f"got --min-recall {self.min_recall}, wanted 0 to 1")


def main(args: Args) -> Report:
    meta = read_committed(args.corpus)
    rows = rows_of(manifest_of(args.corpus, meta, manifest=args.manifest), corpus_uids(args.corpus, meta))
    if args.metadata:
        rows = with_metadata(rows, args.metadata)
    if not rows.num_rows:
        raise ValueError(f"the corpus at {args.corpus} holds no video: there is nothing to index")
    trials: list[Trial] = []
    marker = build_index(
        args.corpus,
        args.out,
        corpus_meta=meta,
        kind=args.kind,
        rows=rows,
        query_QD=queries_of(args, meta, rows.column("captions").to_pylist()),
        min_recall=args.min_recall,
        tell=trials.append,
    )
    show_trials(args.kind, trials)
    summary = {name: marker[name] for name in ("kind", "num_vectors", "dim", "recall_at_10", "ms_per_query", "version")}
    summary |= {"mib": sum(file["bytes"] for file in marker["files"].values()) / 2**20, "effort": marker["effort"]}
    summary |= {
        "model_id": meta["model_id"],
        "queries": args.queries,
        "trials": [dataclasses.asdict(x) for x in trials],
    }
    summary |= {"columns": rows.column_names}
    return Report(
        title=f"Index at {args.out}",
        summary=summary,
        next_command=f'python -m jobs.search --index {args.out} --query "…"',
    )


def queries_of(args: Args, meta: Mapping[str, Any], captions: list[list[str] | None]) -> np.ndarray:
    """Queries to measure recall on, float32 [Q, D]: of videos drawn at random, the same ones each time."""
    drawn = np.random.default_rng(0).permutation(len(captions))
    if args.queries == "videos":
        chosen = np.sort(drawn[:NUM_QUERIES])
        return read_columns(args.corpus, [VECTOR], rows=chosen)[VECTOR].astype(np.float32)
    texts = [captions[row][0] for row in drawn if captions[row]][:NUM_QUERIES]
    if not texts:
        raise ValueError("the videos of this corpus have no captions to measure recall on; give --queries videos")
    bundle, _ = load_model_of(dict(meta), model=args.model, tracking=args.tracking)
    return encode_queries(bundle, texts)


def show_trials(kind: str, trials: list[Trial]) -> None:
    table = Table(title=f"Efforts of {kind}, the last is kept", title_justify="left")
    for name in ("lists or candidates visited", "scored exactly", "recall@10", "ms a query"):
        table.add_column(name, justify="right")
    for trial in trials:
        visits = str(trial.effort.visits or "all")
        table.add_row(visits, str(trial.effort.num_candidates), f"{trial.recall:.3f}", f"{trial.ms_per_query:.2f}")
    Console().print(table)


def cli() -> None:
    launch(Args, main, example=EXAMPLE)


if __name__ == "__main__":
    cli()
