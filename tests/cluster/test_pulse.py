"""Who holds a group up, and when all workers know that one of them wants to stop."""

import pytest

from cluster.pulse import STAGES, Beat, Vote, hanging
from tests.cluster.gloo import run_workers


def beat(batch: int, stage: str, *, lasting_s: float) -> Beat:
    return Beat(batch, stage, lasting_s, "pid 1 on a node", None)


def test_a_group_that_moves_hangs_nowhere() -> None:
    assert hanging({}, bound_s=10) == {}
    beats = {0: (1.0, beat(7, "data", lasting_s=3)), 1: (0.5, beat(7, "forward", lasting_s=2))}
    assert hanging(beats, bound_s=10) == {}


@pytest.mark.parametrize("stage", STAGES[:-1])
def test_the_one_behind_is_named_not_those_that_wait_for_it(stage: str) -> None:
    ahead = STAGES[STAGES.index(stage) + 1]
    beats = {0: (1.0, beat(7, ahead, lasting_s=30)), 1: (1.0, beat(7, stage, lasting_s=31))}
    (told,) = hanging(beats, bound_s=20).items()
    assert told == (1, f"worker 1 (pid 1 on a node) stands at the {stage} of batch 7 since 32 s")


def test_a_frozen_process_is_silent() -> None:
    beats = {0: (30.0, beat(6, "optimizer", lasting_s=0)), 1: (1.0, beat(7, "forward", lasting_s=29))}
    assert hanging(beats, bound_s=20) == {
        0: "worker 0 (pid 1 on a node) stands at the optimizer of batch 6 since 30 s, silent for 30 s"
    }


def test_all_are_named_that_stand_at_the_same_place() -> None:
    beats = {rank: (1.0, beat(7, "data", lasting_s=30)) for rank in range(3)}
    assert list(hanging(beats, bound_s=20)) == [0, 1, 2]


def cast_votes(rank: int, num_workers: int) -> list[list[bool]]:
    vote = Vote(2)
    return [vote.cast(batch >= 3 and rank == 1, batch == 1 and rank == 0) for batch in range(6)]


def test_wishes_are_known_to_all_at_the_same_batch() -> None:
    results = run_workers(cast_votes, 2)
    stop, tell = [False] * 4 + [True] * 2, [False, False, True, False, False, False]
    assert results == [list(map(list, zip(stop, tell, strict=True)))] * 2
