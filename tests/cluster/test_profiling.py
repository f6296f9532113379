"""The trace of a training: which steps are in it, under which names."""

import gzip
import json

import pytest
import torch

from cluster.meter import Meter
from cluster.profiling import FOLDER, NUM_TRACED, NUM_WARMUP, trace_steps
from tests.cluster.pulses import Silent


@pytest.mark.parametrize(("num_steps", "num_traced"), [(NUM_WARMUP + NUM_TRACED + 4, NUM_TRACED), (NUM_WARMUP + 2, 2)])
def test_the_trace_holds_the_stages_of_the_traced_steps(tmp_path, num_steps, num_traced):
    meter = Meter(torch.device("cpu"), Silent())  # pyright: ignore[reportArgumentType]
    with trace_steps(str(tmp_path), rank=1, device=torch.device("cpu")) as end_step:
        for _ in range(num_steps):
            meter.enter("forward")
            with meter.inside("gather"):
                torch.mm(torch.ones(8, 8), torch.ones(8, 8))
            meter.enter("backward")
            end_step()
    events = json.loads(gzip.decompress((tmp_path / FOLDER / "rank-1.json.gz").read_bytes()))["traceEvents"]
    names = [event.get("name") for event in events if event.get("cat") == "user_annotation"]
    assert names.count("forward") == names.count("gather") == num_traced
    assert "aten::mm" in (tmp_path / FOLDER / "rank-1.txt").read_text()


def test_a_store_that_refuses_costs_the_trace_and_not_the_training(tmp_path, caplog):
    (tmp_path / "file").write_bytes(b"")
    with trace_steps(str(tmp_path / "file"), rank=0, device=torch.device("cpu")) as end_step:
        for _ in range(NUM_WARMUP + NUM_TRACED):
            end_step()
    assert "the trace was not saved" in caplog.text
