"""How many workers a cluster has room for, and what no placement can be."""

from typing import Any

import pytest

from cluster.placement import Placement

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
