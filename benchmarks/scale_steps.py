"""The steps of ``scale``: python -m benchmarks.scale_steps FOLDER …

Each step over each folder's manifest runs in a fork of this process, so that it knows nothing of the others and none
pays for the imports. It prints a line of JSON: seconds, how much work that was, and the memory before and at the peak.
"""

import json
import multiprocessing
import pickle
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peak_memory import peak_mib
from fpig_core.preprocess import Preprocess
from fpig_core.schedule import Schedule
from pipelines.embed import EmbedSettings, plan_embedding
from pipelines.manifest import Manifest, load_manifest
from pipelines.part_files import missing_parts
from pipelines.part_plan import plan_parts
from pipelines.plan import Plan
from pipelines.row_groups import RowGroups
from pipelines.stream import StreamSource
from pipelines.verify import repeated_samples

RESET_PEAK = "5"
GLOBAL_BATCH = 256
NUM_COLD, NUM_WARM = 8, 2000


def main() -> None:
    for folder in sys.argv[1:]:
        for name in STEPS:
            process = multiprocessing.get_context("fork").Process(target=run, args=(name, Path(folder)))
            process.start()
            process.join()
            if process.exitcode:
                sys.exit(f"the step {name} failed over {folder}")


def run(name: str, folder: Path) -> None:
    Path("/proc/self/clear_refs").write_text(RESET_PEAK)
    before = peak_mib()
    start = time.perf_counter()
    more = STEPS[name](folder)
    told = {"seconds": time.perf_counter() - start, "before_mib": before, "peak_mib": peak_mib(), "more": more}
    print(json.dumps({"name": name, "num_rows": int(folder.name)} | told), flush=True)


def load(folder: Path) -> dict[str, Any]:
    manifest = find(folder)
    return {"unit": "row groups", "work": RowGroups(manifest.url).num_groups, "num_rows": manifest.num_captioned}


def plan(folder: Path) -> dict[str, Any]:
    """Random batches of the plan alone: no row is read."""
    made, batches = make_plan(find(folder)), random_batches(find(folder), NUM_WARM)
    return {"unit": "slots", "work": sum(len(made.samples(batch)) for batch in batches)}


def take(folder: Path) -> dict[str, Any]:
    """Rows of random batches by a process that knows nothing yet: what a decoding task does first."""
    manifest = find(folder)
    made, groups = make_plan(manifest), RowGroups(manifest.url).num_groups
    num_groups = 0
    for batch in random_batches(manifest, NUM_COLD):
        sample = made.samples(batch)
        assert manifest.take_captioned(sample).num_rows == GLOBAL_BATCH
        num_groups += len(np.unique(sample * groups // manifest.num_rows))
    return {"unit": "slots", "work": NUM_COLD * GLOBAL_BATCH, "groups_per_batch": num_groups / NUM_COLD}


def embed(folder: Path) -> dict[str, Any]:
    """All that stands before the first task of an embedding, into an empty folder."""
    settings = EmbedSettings()
    model, out = str(folder.parent / "model"), str(folder / "corpus")
    made = plan_embedding(find(folder), model_url=model, out_url=out, settings=settings)
    size = len(pickle.dumps(made.parts))
    return {"unit": "rows", "work": made.num_missing, "pickled_bytes_a_part": size / len(made.parts)}


def rerun(folder: Path) -> dict[str, Any]:
    """The same of an embedding of which half the parts are there (as empty files): names, listing, comparison."""
    parts = plan_parts(find(folder), "model")
    return {"unit": "rows", "work": parts.num_samples, "num_missing": len(missing_parts(str(folder / "half"), parts))}


def unique(folder: Path) -> dict[str, Any]:
    """The proof that no sample stands in the manifest twice."""
    manifest = find(folder)
    assert repeated_samples(manifest) == []
    return {"unit": "rows", "work": manifest.num_rows}


def pickled(folder: Path) -> dict[str, Any]:
    """What each task of the training stream is sent."""
    manifest = find(folder)
    source = StreamSource(
        plan=make_plan(manifest),
        preprocess=Preprocess(),
        manifests={"train": manifest, "val": manifest},
    )
    return {"unit": "bytes", "work": len(pickle.dumps(source))}


def find(folder: Path) -> Manifest:
    return load_manifest(str(folder))


def make_plan(manifest: Manifest) -> Plan:
    schedule = Schedule(num_train=manifest.num_captioned, num_val=0, global_batch=GLOBAL_BATCH, epochs=10)
    return Plan(schedule=schedule, seed=0, digest=manifest.digest)


def random_batches(manifest: Manifest, count: int) -> Iterator[int]:
    """Numbers of whole batches of any epoch."""
    rng, schedule = np.random.default_rng(0), make_plan(manifest).schedule
    whole = schedule.num_train // schedule.global_batch
    for _ in range(count):
        yield int(rng.integers(schedule.epochs)) * schedule.epoch_batches + int(rng.integers(whole))


STEPS: dict[str, Callable[[Path], dict[str, Any]]] = {
    step.__name__: step for step in (load, plan, take, embed, rerun, unique, pickled)
}


if __name__ == "__main__":
    main()
