"""Checkpoints: complete or invisible, newest first, damaged ones passed over."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError

from cluster import checkpoints
from cluster.checkpoints import Checkpoint, CheckpointStore, DamagedError

NUM_WORKERS = 2


def put(store: CheckpointStore, batch: int, folder: str, tmp_path: Path, *, ranks: range = range(NUM_WORKERS)) -> None:
    """What the workers of these ranks put into a checkpoint."""
    for rank in ranks:
        local = tmp_path / f"{folder}-{rank}"
        local.mkdir()
        (local / f"state-{rank:05d}.safetensors").write_bytes(bytes([rank]) * batch)
        store.put(folder, local, rank=rank, num_workers=NUM_WORKERS, batch=batch, best_val_r1=1.5)


def save(store: CheckpointStore, batch: int, tmp_path: Path, *, ranks: range = range(NUM_WORKERS)) -> str:
    folder = store.new_folder(batch)
    put(store, batch, folder, tmp_path, ranks=ranks)
    return folder


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(str(tmp_path / "checkpoints"))


def newest_folder(store: CheckpointStore) -> str | None:
    newest = store.newest_complete()
    return newest.folder if newest else None


def test_nothing_there(store: CheckpointStore) -> None:
    assert store.newest_complete() is None


@pytest.mark.parametrize("ranks", [range(1), range(1, 2)])
def test_until_every_worker_has_put_its_part_a_checkpoint_is_invisible(store, tmp_path, ranks) -> None:
    first = save(store, 10, tmp_path)
    second = save(store, 20, tmp_path, ranks=ranks)
    assert newest_folder(store) == first
    put(store, 20, second, tmp_path, ranks=range(1 - ranks.start, 2 - ranks.start))
    assert newest_folder(store) == second


@pytest.mark.parametrize("name", ["state-00001.safetensors", "worker-00000-of-00002.json"])
@pytest.mark.parametrize("damage", ["missing", "short"])
def test_a_damaged_checkpoint_falls_back_with_a_message(store, tmp_path, caplog, name, damage) -> None:
    first = save(store, 10, tmp_path)
    victim = Path(store.root) / save(store, 20, tmp_path) / name
    victim.unlink() if damage == "missing" else victim.write_bytes(victim.read_bytes()[:-1])
    assert newest_folder(store) == first
    is_unfinished = damage == "missing" and name.startswith("worker")
    assert is_unfinished or (name in caplog.text and "damaged" in caplog.text)


def test_bytes_that_changed_condemn_a_checkpoint(store, tmp_path) -> None:
    first = save(store, 10, tmp_path)
    victim = Path(store.root) / save(store, 20, tmp_path) / "state-00001.safetensors"
    victim.write_bytes(bytes(len(victim.read_bytes())))
    newest = store.newest_complete()
    assert newest
    (tmp_path / "back").mkdir()
    with pytest.raises(DamagedError, match=r"state-00001.safetensors is damaged"):
        store.download(newest, tmp_path / "back")
    assert newest_folder(store) == first


def test_two_attempts_at_the_same_batch_do_not_mix(store, tmp_path) -> None:
    save(store, 10, tmp_path, ranks=range(1))
    save(store, 10, tmp_path, ranks=range(1, 2))
    assert store.newest_complete() is None


def test_what_comes_back_is_what_was_saved(store, tmp_path) -> None:
    folder = save(store, 300, tmp_path)
    checkpoint = store.newest_complete()
    assert checkpoint
    names = [f"state-{rank:05d}.safetensors" for rank in range(NUM_WORKERS)]
    files = {name: (300, hashlib.sha256(bytes([rank]) * 300).hexdigest()) for rank, name in enumerate(names)}
    assert checkpoint == Checkpoint(folder=folder, batch=300, best_val_r1=1.5, files=files)
    (tmp_path / "back").mkdir()
    store.download(checkpoint, tmp_path / "back")
    for rank, name in enumerate(names):
        assert (tmp_path / "back" / name).read_bytes() == bytes([rank]) * 300


@pytest.mark.parametrize(("failures", "is_found"), [(2, True), (10**9, False)])
def test_a_store_that_is_away_is_asked_again_for_a_while(store, tmp_path, monkeypatch, caplog, failures, is_found):
    monkeypatch.setattr(checkpoints, "PATIENCE_S", 60.0 if is_found else 0.02)
    monkeypatch.setattr(checkpoints, "MAX_PAUSE_S", 0.01)
    folder, ls, left = save(store, 10, tmp_path), store.fs.ls, iter(range(failures))

    def fail_first(*args: Any, **kwargs: Any) -> Any:
        if next(left, None) is not None:
            raise EndpointConnectionError(endpoint_url="http://127.0.0.1:9")
        return ls(*args, **kwargs)

    monkeypatch.setattr(store.fs, "ls", fail_first)
    if is_found:
        assert newest_folder(store) == folder
        assert caplog.text.count("EndpointConnectionError: Could not connect") == failures
    else:
        with pytest.raises(RuntimeError, match=r"got no answer about the checkpoints .* for 0 s .*start the same"):
            store.newest_complete()


def test_pruning_keeps_the_newest_complete_ones(store, tmp_path) -> None:
    folders = [
        save(store, batch, tmp_path, ranks=range(1 if batch in (20, 50) else 2)) for batch in (10, 20, 30, 40, 50)
    ]
    store.prune(keep=2)
    assert sorted(path.name for path in Path(store.root).iterdir()) == folders[2:]
