"""How many workers a cluster has room for, and what no placement can be."""

from typing import Any

import pytest
import torch

from cluster.placement import Placement, autocast_dtype

NODES = [{"CPU": 4.0, "GPU": 2.0}, {"CPU": 4.0, "GPU": 2.0}, {"CPU": 8.0}]


@pytest.mark.parametrize(
    ("placement", "nodes", "use_gpu", "room"),
    [
        (Placement(num_workers=8), NODES, True, 4),
        (Placement(num_workers=3), NODES, True, 3),
        (Placement(num_workers=8, cpus_per_worker=3), NODES, True, 2),
        (Placement(num_workers=99), NODES, False, 14),
        (Placement(num_workers=99, decode_cpus=15), NODES, False, 1),
        (Placement(num_workers=4, decode_cpus=8), NODES[:2], True, 0),
        (Placement(num_workers=2), [], False, 0),
    ],
)
def test_room_leaves_cpus_for_decoding(placement, nodes, use_gpu, room) -> None:
    assert placement.room(nodes, use_gpu=use_gpu) == room


def test_more_than_all_cannot_be_the_least() -> None:
    with pytest.raises(ValueError, match=r"got min_workers=3, wanted 0 to num_workers=2"):
        Placement(num_workers=2, min_workers=3)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_workers": 0}, "got num_workers=0, wanted at least 1"),
        ({"micro_batch": -1}, "wanted at least 1, or 0"),
        ({"zero_stage": 3, "micro_batch": 2}, "got zero_stage=3 with micro_batch=2.* use zero_stage=2"),
        ({"zero_stage": 0, "offload": True}, "got zero_stage=0 with offload, wanted 1, 2 or 3.* use zero_stage=1"),
    ],
)
def test_what_cannot_work_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Placement(**wrong)


def test_a_single_worker_shards_nothing():
    placement = Placement(num_workers=2, zero_stage=3)
    assert [placement.stage_of(num_workers) for num_workers in (1, 2)] == [0, 3]
    assert Placement(zero_stage=2, offload=True).stage_of(1) == 2


@pytest.mark.parametrize(
    ("precision", "device", "has_bf16", "dtype"),
    [
        ("auto", "cuda", True, torch.bfloat16),
        ("auto", "cuda", False, torch.float32),
        ("auto", "cpu", True, torch.float32),
        ("bf16", "cuda", False, torch.bfloat16),
        ("bf16", "cpu", False, torch.bfloat16),
        ("fp32", "cuda", True, torch.float32),
    ],
)
def test_a_device_that_only_emulates_bf16_gets_it_on_request_alone(monkeypatch, precision, device, has_bf16, dtype):
    def is_supported(including_emulation: bool = True) -> bool:
        return has_bf16 or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_supported)
    assert autocast_dtype(precision, torch.device(device)) == dtype
