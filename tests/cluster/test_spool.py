import json
import os

import pytest

from cluster.spool import BATCH_BYTES, Spool


def metric(step: int, **values: float) -> dict:
    return {"metrics": values or {"loss": 1.0}, "step": step, "time_ms": step}


def test_records_come_back_in_order_until_committed(tmp_path):
    spool = Spool(tmp_path)
    for step in range(5):
        spool.append(metric(step))
    batch = spool.read()
    spool.commit(batch.ends[1], num_records=2)
    assert [record["step"] for record in spool.read().records] == [2, 3, 4]
    assert spool.num_pending == 3


def test_reopening_goes_on_where_the_last_commit_was(tmp_path):
    first = Spool(tmp_path)
    for step in range(3):
        first.append(metric(step))
    first.bind("run")
    first.commit(first.read().ends[0], num_records=1)
    first.close()
    second = Spool(tmp_path)
    assert (second.run_id, second.spool_id) == ("run", first.spool_id)
    assert [record["step"] for record in second.read().records] == [1, 2]
    assert second.num_pending == 2


def test_a_torn_last_line_is_cut(tmp_path):
    first = Spool(tmp_path)
    first.append(metric(0))
    first.close()
    with open(tmp_path / "spool.jsonl", "ab") as file:
        file.write(b'{"metrics":{"lo')
    second = Spool(tmp_path)
    second.append(metric(1))
    assert [record["step"] for record in second.read().records] == [0, 1]


def test_a_disk_that_takes_half_a_record_takes_none_of_it(tmp_path, monkeypatch):
    spool = Spool(tmp_path)
    spool.append(metric(0))
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, data[: len(data) // 2]))
    with pytest.raises(OSError, match="the disk took"):
        spool.append(metric(1))
    monkeypatch.undo()
    spool.append(metric(2))
    assert [record["step"] for record in spool.read().records] == [0, 2]
    assert (spool.num_pending, spool.last_steps) == (2, {"loss": 2})


@pytest.mark.parametrize("damage", [b'{"metrics":{"lo', b"\x00" * 40, b"\xff{}\n", b"7\n"])
def test_a_damaged_line_costs_itself_alone(tmp_path, caplog, damage):
    first = Spool(tmp_path)
    first.append(metric(0))
    with open(tmp_path / "spool.jsonl", "ab") as file:
        file.write(damage if damage.endswith(b"\n") else damage + json.dumps(metric(1)).encode() + b"\n")
    first.append(metric(2))
    first.close()
    second = Spool(tmp_path)
    second.append(metric(3))
    batch = second.read()
    assert [record.get("step") for record in batch.records] == [0, None, 2, 3]
    assert "1 damaged lines" in caplog.text
    second.commit(batch.ends[-1], num_records=len(batch.records))
    assert second.num_pending == 0


def test_a_new_spool_takes_its_name_and_keeps_it(tmp_path):
    for wanted in ("name", "other"):
        spool = Spool(tmp_path, spool_id=wanted)
        assert spool.spool_id == "name"
        spool.close()


def test_last_steps_cover_delivered_and_waiting_points(tmp_path):
    first = Spool(tmp_path)
    first.append(metric(7, loss=1.0))
    first.commit(first.read().ends[-1], num_records=1)
    first.append(metric(9, recall=1.0))
    first.close()
    assert Spool(tmp_path).last_steps == {"loss": 7, "recall": 9}


def test_batches_are_bounded_and_complete(tmp_path):
    spool = Spool(tmp_path)
    num_records = 3000
    for step in range(num_records):
        spool.append(metric(step, **{f"metric_{i}": 0.5 for i in range(10)}))
    seen = []
    while (batch := spool.read()).records:
        start = seen[-1][1] if seen else 0
        assert batch.ends[-1] - start <= BATCH_BYTES
        seen += [(record["step"], end) for record, end in zip(batch.records, batch.ends, strict=True)]
        spool.commit(batch.ends[-1], num_records=len(batch.records))
    assert [step for step, _ in seen] == list(range(num_records))


def test_a_record_longer_than_a_batch_is_read(tmp_path):
    spool = Spool(tmp_path)
    spool.append({"tags": {"long": "x" * 3 * BATCH_BYTES}})
    assert len(spool.read().records) == 1


def test_values_return_bit_for_bit(tmp_path):
    spool = Spool(tmp_path)
    values = {"a": 0.1 + 0.2, "b": float("inf"), "c": 5e-324}
    spool.append(metric(0, **values))
    assert spool.read().records[0]["metrics"] == values


def test_one_owner_at_a_time(tmp_path):
    spool = Spool(tmp_path)
    with pytest.raises(ValueError, match="another process"):
        Spool(tmp_path)
    spool.close()
    Spool(tmp_path).close()
