"""Checkpoints: complete or invisible, newest first, damaged ones passed over."""

from pathlib import Path

import pytest

from cluster.checkpoints import MARKER, CheckpointStore, Marker


def save(store: CheckpointStore, batch: int, folder: Path, *, commit: bool = True) -> Marker:
    folder.mkdir(exist_ok=True)
    (folder / "weights.bin").write_bytes(bytes([batch % 256]) * 100)
    (folder / "sub").mkdir(exist_ok=True)
    (folder / "sub" / "optim.bin").write_bytes(b"x" * batch)
    store.begin(batch)
    files = store.upload(batch, folder)
    marker = Marker(batch=batch, num_workers=2, zero_stage=1, files=files, best_val_r1=1.5)
    if commit:
        store.commit(marker)
    return marker


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(str(tmp_path / "checkpoints"))


def test_nothing_there(store: CheckpointStore) -> None:
    assert store.newest_complete() is None


def test_without_its_marker_a_checkpoint_is_invisible(store: CheckpointStore, tmp_path: Path) -> None:
    first = save(store, 10, tmp_path / "a")
    save(store, 20, tmp_path / "b", commit=False)
    assert store.newest_complete() == first


def test_a_cut_marker_is_no_marker(store: CheckpointStore, tmp_path: Path) -> None:
    first = save(store, 10, tmp_path / "a")
    save(store, 20, tmp_path / "b")
    marker = Path(store.folder(20)) / MARKER
    marker.write_text(marker.read_text()[:20])
    assert store.newest_complete() == first


@pytest.mark.parametrize("damage", ["missing", "short"])
def test_a_damaged_checkpoint_falls_back_with_a_message(
    store: CheckpointStore, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    first = save(store, 10, tmp_path / "a")
    save(store, 20, tmp_path / "b")
    victim = Path(store.folder(20)) / "sub" / "optim.bin"
    victim.unlink() if damage == "missing" else victim.write_bytes(b"x")
    assert store.newest_complete() == first
    assert "damaged" in caplog.text
    assert "optim.bin" in caplog.text


def test_saving_again_over_a_complete_one_hides_it_until_the_end(store: CheckpointStore, tmp_path: Path) -> None:
    save(store, 10, tmp_path / "a")
    save(store, 10, tmp_path / "b", commit=False)
    assert store.newest_complete() is None


def test_what_comes_back_is_what_was_saved(store: CheckpointStore, tmp_path: Path) -> None:
    marker = save(store, 300, tmp_path / "a")
    store.download(marker, tmp_path / "back")
    for name in marker.files:
        assert (tmp_path / "back" / name).read_bytes() == (tmp_path / "a" / name).read_bytes()
    assert store.at(300) == marker


def test_pruning_keeps_the_newest_complete_ones(store: CheckpointStore, tmp_path: Path) -> None:
    for batch in (10, 20, 30, 40):
        save(store, batch, tmp_path / str(batch), commit=batch != 20)
    save(store, 50, tmp_path / "50", commit=False)
    store.prune(keep=2)
    kept = sorted(path.name for path in Path(store.root).iterdir())
    assert kept == ["batch-000000030", "batch-000000040", "batch-000000050"]
