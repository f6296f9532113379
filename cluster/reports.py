"""What workers tell the driver, and what checkpoints keep of it: a driver that is killed has not heard everything."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cluster.checkpoints import Checkpoint, CheckpointStore
from cluster.validation import RankedQuery

logger = logging.getLogger(__name__)

_PREFIX = "reports-"

WorkerReport = Mapping[str, Any]
"""One worker's part of a ``GroupReport``: its fields by name, and ``load``, further metrics of its node."""


class GroupReport(NamedTuple):
    """What the workers tell the driver from time to time."""

    step: int
    """Optimiser steps done."""
    metrics: dict[str, float]
    rejected: list[dict[str, str]]
    """Samples that the stream could not use since the last report."""
    steps: list[dict[str, Any]]
    """Batch, losses and uids of every step since the last report, where they are recorded."""
    queries: Sequence[RankedQuery]
    """All queries of the validation that the metrics are of; empty for training steps."""


def join_reports(parts: Sequence[WorkerReport]) -> GroupReport:
    """The parts of all workers, by rank, as one report; what is the same for all is the first one's."""
    steps = [
        shares[0] | {"uids": [uid for share in shares for uid in share["uids"]]}
        for shares in zip(*(part["steps"] for part in parts), strict=True)
    ]
    return GroupReport(
        step=parts[0]["step"],
        metrics=parts[0]["metrics"] | {name: value for part in parts for name, value in part["load"].items()},
        rejected=[sample for part in parts for sample in part["rejected"]],
        steps=steps,
        queries=[RankedQuery(*query) for query in parts[0]["queries"]],
    )


def write_reports(folder: Path, reports: Sequence[WorkerReport], *, rank: int) -> None:
    """Leave a worker's newest reports among the files of a checkpoint."""
    (folder / f"{_PREFIX}{rank:05d}.json").write_text(json.dumps(list(reports)))


def kept_reports(store: CheckpointStore, checkpoint: Checkpoint) -> list[GroupReport]:
    """The newest reports before a checkpoint, oldest first; the driver may have heard of them or not.

    Damaged ones are left out: the state beside them may be sound.
    """
    names = sorted(name for name in checkpoint.files if name.startswith(_PREFIX))
    try:
        workers = [json.loads(store.read(checkpoint, name)) for name in names]
        return [join_reports(parts) for parts in zip(*workers, strict=True)]
    except ValueError as error:
        logger.warning("the reports of checkpoint %s are damaged: %s", checkpoint.folder, error)
        return []
