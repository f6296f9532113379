"""``verify_corpus``: prove from storage that a corpus is complete and sound."""

import dataclasses

from rich.console import Console

from jobs.cli import DONE, FAILED, Report, launch
from pipelines.corpus import manifest_of, read_committed
from pipelines.manifest import load_manifest
from pipelines.verify import verify_corpus

EXAMPLE = "python -m jobs.verify_corpus --corpus runs/demo/corpus"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Args:
    """Read every file of a corpus and hold it against its manifest: each sample embedded or rejected, once."""

    corpus: str
    """Folder or URL of the corpus."""
    manifest: str = ""
    """Manifest to hold it against; by default the one that it was made from."""
    json: str = ""
    """Write the result to this file."""


def main(args: Args) -> Report:
    meta = read_committed(args.corpus)
    manifest = load_manifest(args.manifest) if args.manifest else manifest_of(args.corpus, meta)
    found = verify_corpus(args.corpus, manifest)
    for problem in found.problems:
        Console(stderr=True).print(f"PROBLEM: {problem}", style="red", markup=False, highlight=False, soft_wrap=True)
    summary = dataclasses.asdict(found) | {
        "problems": list(found.problems),
        "manifests": dict(found.manifests),
        "num_problems": len(found.problems),
        "sound": not found.problems,
        "model_id": meta["model_id"],
        "manifest_digest": meta["manifest_digest"],
    }
    remedy = "embed into a new folder: python -m jobs.embed_corpus --out …"
    return Report(
        title=f"Corpus {args.corpus}: {'complete and sound' if not found.problems else 'NOT sound'}",
        summary=summary,
        next_command=remedy if found.problems else f"python -m jobs.evaluate --corpus {args.corpus}",
        exit_code=FAILED if found.problems else DONE,
    )


def cli() -> None:
    launch(Args, main, example=EXAMPLE)


if __name__ == "__main__":
    cli()
