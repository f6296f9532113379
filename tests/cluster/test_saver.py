"""A checkpoint that cannot be written costs itself alone: a full disk, a store that refuses or is away."""

import logging
import resource
import signal
import tempfile
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError

from cluster import saver as saver_module
from cluster.checkpoints import CheckpointStore
from cluster.saver import Saver
from tests.cluster.gloo import run_workers

STATE_BYTES = 100_000


def save_three(rank: int, num_workers: int, folder: str, failure: str) -> tuple[list[bool], list[int], list[str], str]:
    """Save three checkpoints, the second under the failure -> successes, newest batches, leftovers, the log."""
    log = logging.getLogger("cluster.saver")
    log.addHandler(logging.FileHandler(f"{folder}/log"))
    tempfile.tempdir = f"{folder}/drafts"
    Path(tempfile.tempdir).mkdir()
    store = CheckpointStore(f"{folder}/checkpoints")

    def save_state(engine: Any, local: Path) -> None:
        (local / f"state-{rank:05d}.safetensors").write_bytes(bytes(STATE_BYTES))

    saver_module.save_state = save_state
    saver, put_file = Saver(store, keep=9), store.fs.put_file
    saved, newest = [], []
    for batch in (1, 2, 3):
        if failure == "full disk":
            # Beyond this size a write fails as on a full disk, in mid-file.
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            soft = STATE_BYTES // 2 if batch == 2 else resource.RLIM_INFINITY
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, resource.RLIM_INFINITY))
        else:
            store.fs.put_file = FAULTS[failure] if batch == 2 else put_file
        saver.save(engine=None, batch=batch, best_val_r1=0.0, reports=[])  # pyright: ignore[reportArgumentType]
        saved.append(saver.wait())
        found = store.newest_complete()
        newest.append(found.batch if found else -1)
    leftovers = [str(path) for path in Path(tempfile.tempdir).iterdir()]
    return saved, newest, leftovers, Path(f"{folder}/log").read_text()


def _refuse(source: str, target: str) -> None:
    raise PermissionError(13, "the store refuses", target)


def _reach_nobody(source: str, target: str) -> None:
    raise EndpointConnectionError(endpoint_url="http://127.0.0.1:9")


FAULTS = {"refusal": _refuse, "outage": _reach_nobody}


@pytest.mark.parametrize(
    ("failure", "told"),
    [
        ("full disk", "File too large"),
        ("refusal", "the store refuses"),
        ("outage", "EndpointConnectionError: Could not connect"),
    ],
)
def test_a_checkpoint_that_fails_is_told_and_left_out(tmp_path, failure, told) -> None:
    ((saved, newest, leftovers, log),) = run_workers(save_three, 1, str(tmp_path), failure)
    assert saved == [True, False, True]
    assert newest == [1, 1, 3]
    assert leftovers == []
    assert "the checkpoint before batch 2 was not saved" in log
    assert told in log
