"""Checkpoints on a store that fails: saved in the end, or told as an error, and never half visible."""

import uuid

import pytest

from cluster.checkpoints import CheckpointStore
from tests import servers
from tests.cluster.test_checkpoints import newest_folder, save
from tests.fault_proxy import ALWAYS, Rule
from tests.faults import Reset, Status


@pytest.fixture
def store(faulty_s3) -> CheckpointStore:
    return CheckpointStore(f"s3://{servers.BUCKET}/{uuid.uuid4().hex}")


def test_a_store_that_fails_for_a_while_keeps_the_checkpoint(store, faulty_s3, tmp_path) -> None:
    faulty_s3.rules = [
        Rule(key="*", method=method, attempts=range(1), fault=fault)
        for method in ("GET", "PUT")
        for fault in (Status(503, "SlowDown"), Reset(), Status(500))
    ]
    folder = save(store, 10, tmp_path)
    assert newest_folder(store) == folder
    newest = store.newest_complete()
    assert newest
    (tmp_path / "back").mkdir()
    store.download(newest, tmp_path / "back")


@pytest.mark.parametrize("key", ["*state-00001*", "*worker-00001*"])
def test_a_store_that_refuses_a_file_leaves_the_checkpoint_before(store, faulty_s3, tmp_path, key) -> None:
    first = save(store, 10, tmp_path)
    faulty_s3.rules = [Rule(key=key, method="PUT", attempts=ALWAYS, fault=Status(403, "AccessDenied"))]
    with pytest.raises(PermissionError):
        save(store, 20, tmp_path)
    assert newest_folder(store) == first
    faulty_s3.forget()
    again = save(store, 30, tmp_path)
    assert newest_folder(store) == again
    store.prune(keep=1)
    assert [checkpoint.folder for checkpoint in store.complete()] == [again]
