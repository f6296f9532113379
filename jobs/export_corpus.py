"""``export_corpus``: a corpus in the layout of another tool."""

import dataclasses

from jobs.cli import Report, launch
from pipelines.corpus import manifest_of, read_committed
from pipelines.interchange import ROWS_PER_FILE, Format, export_corpus
from pipelines.search_rows import corpus_uids, rows_of

EXAMPLE = "python -m jobs.export_corpus --corpus runs/demo/corpus --out runs/demo/corpus-export --layout clip-retrieval"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Args:
    """Write the vectors of a corpus, with what its manifest tells of the videos, for another tool to read."""

    corpus: str
    """Folder or URL of the corpus."""
    out: str
    """New local folder; it appears when it is complete."""
    layout: Format = "clip-retrieval"
    """clip-retrieval: img_emb/*.npy and metadata/*.parquet. lance: a Lance dataset (needs fpig[lance])."""
    rows_per_file: int = ROWS_PER_FILE
    """How many videos stand in one file, and at once in memory."""
    manifest: str = ""
    """Manifest of the corpus; by default the one that it was made from."""
    json: str = ""
    """Write the result to this file."""


def main(args: Args) -> Report:
    meta = read_committed(args.corpus)
    rows = rows_of(manifest_of(args.corpus, meta, manifest=args.manifest), corpus_uids(args.corpus, meta))
    if not rows.num_rows:
        raise ValueError(f"the corpus at {args.corpus} holds no video: there is nothing to export")
    num_files = export_corpus(
        args.corpus, args.out, corpus_meta=meta, rows=rows, layout=args.layout, rows_per_file=args.rows_per_file
    )
    summary = {"layout": args.layout, "num_videos": rows.num_rows, "num_files": num_files}
    summary |= {"model_id": meta["model_id"], "dtype": meta["dtype"], "columns": rows.column_names}
    return Report(title=f"Export at {args.out}", summary=summary)


def cli() -> None:
    launch(Args, main, example=EXAMPLE)


if __name__ == "__main__":
    cli()
