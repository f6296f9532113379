"""An embedding whose driver is killed in the middle and given again (goal 9): what is read and done a second time.

python -m benchmarks.embed_faults FOLDER COUNTS    is the driver itself
"""

import dataclasses
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray

from benchmarks import count_reads
from benchmarks.count_reads import FOLDER_VARIABLE, counted
from benchmarks.measure import Result, Spread
from pipelines.embed import EmbedSettings, embed_parts, finish_embedding, plan_embedding
from pipelines.manifest import Manifest, load_manifest
from pipelines.part_files import Tally, part_files
from pipelines.verify import verify_corpus

SETTINGS = EmbedSettings(part_rows=8, batch_size=8)
LIMIT_S = 900


@dataclasses.dataclass(frozen=True, kw_only=True)
class Repeated:
    """What a kill cost, and what it left wrong. Bytes are told as parts of those of all videos."""

    num_done: int
    bytes_by_rerun: float
    """What the rerun read of parts that were there."""
    bytes_again: float
    """What was read twice in all: also what the killed run had decoded and not embedded."""
    num_wrong: int


def faults(manifest: Manifest, model: Path, *, repeats: int) -> Result:
    """Kill the driver each time after another part of the work."""
    found = []
    for number in range(repeats):
        with tempfile.TemporaryDirectory(dir=model.parent) as folder:
            found.append(killed_once(Path(folder), manifest, model, share=(number + 1) / (repeats + 1)))
    sides = {"killed after parts": [each.num_done for each in found], "of parts": len_parts(manifest)}
    sides |= {"duplicate or missing rows": sum(each.num_wrong for each in found)}
    return Result(
        goal=9,
        what=f"SIGKILL of the driver, {manifest.num_rows} videos: bytes read again ÷ bytes of the videos",
        wanted="≤ 0.05; 0 rows; repeated work: one chunk a worker",
        figures={
            "of what was done": Spread.of([each.bytes_by_rerun for each in found]),
            "of what was decoded": Spread.of([each.bytes_again for each in found]),
        },
        sides=sides,
    )


def len_parts(manifest: Manifest) -> int:
    return -(-manifest.num_rows // SETTINGS.part_rows)


def killed_once(folder: Path, manifest: Manifest, model: Path, *, share: float) -> Repeated:
    """Kill the driver when this share of the parts is there, and give the same command again."""
    first, second = folder / "counts-1", folder / "counts-2"
    first.mkdir()
    second.mkdir()
    (folder / "manifest").write_text(manifest.url)
    (folder / "model").symlink_to(model)
    wanted = round(share * len_parts(manifest))
    with driver(folder, first) as process:
        deadline = time.monotonic() + LIMIT_S
        while num_parts(folder) < wanted:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the driver ended before it made {wanted} parts, or takes too long")
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    num_done = num_parts(folder)
    with driver(folder, second) as process:
        process.wait(timeout=LIMIT_S)
    proof = verify_corpus(str(folder / "corpus"), manifest)
    # All videos are of one size.
    by_first, by_second = counted(first) / manifest.num_rows, counted(second) / manifest.num_rows
    return Repeated(
        num_done=num_done,
        bytes_by_rerun=by_second - (1 - num_done / len_parts(manifest)),
        bytes_again=by_first + by_second - 1,
        num_wrong=len(proof.problems) + manifest.num_rows - proof.num_embedded,
    )


def num_parts(folder: Path) -> int:
    return sum(1 for _ in part_files(str(folder / "corpus")))


@contextmanager
def driver(folder: Path, counts: Path) -> Iterator[subprocess.Popen]:
    """The driver of an embedding below ``folder``, in a process of its own, on this process's cluster."""
    env = os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address, "PYTHONPATH": os.getcwd()}
    command = [sys.executable, "-m", "benchmarks.embed_faults", str(folder), str(counts)]
    process = subprocess.Popen(command, env=env)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def main() -> None:
    folder = Path(sys.argv[1])
    variables = {FOLDER_VARIABLE: sys.argv[2], "PYTHONPATH": os.environ["PYTHONPATH"]}
    hook = f"{count_reads.__name__}.install"
    ray.init(log_to_driver=False, runtime_env={"worker_process_setup_hook": hook, "env_vars": variables})
    manifest = load_manifest((folder / "manifest").read_text())
    out, model = str(folder / "corpus"), str((folder / "model").resolve())
    plan = plan_embedding(manifest, model_url=model, out_url=out, settings=SETTINGS)
    finish_embedding(plan, Tally(plan.parts, embed_parts(plan, SETTINGS)), lineage={})


if __name__ == "__main__":
    main()
