"""Several results under one protocol: what must agree, and by how much the systems differ on the same queries."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fpig_core.bootstrap import LEVEL, paired_differences
from fpig_core.evaluation import FIRST_STAGE, MAIN
from fpig_core.metrics import DIRECTIONS
from jobs.results import RankRows, Result

SCHEMA = "fpig.comparison/1"
COSTS = ("bytes_per_video", "ms_per_query", "videos_per_s")
TOLD = ("method", "model_id", "first_stage_k", "select_on", "measured_on", "warnings")


def compare_results(
    results: Sequence[Result], *, names: Sequence[str] = (), ranking: str = MAIN, num_resamples: int, seed: int = 0
) -> dict[str, Any]:
    """The comparison as JSON values; every result but the first is held against the first, query by query.

    ``ranking``: main, first_stage, or the full name of a normaliser.

    Raises:
        ValueError: fewer than two results, different protocols, different queries, or a ranking that one lacks.
    """
    if len(results) < 2:
        raise ValueError(f"got {len(results)} results, wanted at least two to compare")
    if names and len(names) != len(results):
        raise ValueError(f"got {len(names)} names for {len(results)} results, wanted one each")
    require_one_protocol(results)
    names = list(names) or name_systems(results)
    systems = [_system(name, result, ranking) for name, result in zip(names, results, strict=True)]
    pairs = [
        {"system": name, "baseline": names[0], **_differences(results[0], result, ranking, num_resamples, seed)}
        for name, result in zip(names[1:], results[1:], strict=True)
    ]
    return {
        "schema": SCHEMA,
        "split": results[0].values["split"],
        "ranking": ranking,
        "protocol": results[0].values["protocol"],
        "systems": systems,
        "differences": pairs,
        "bootstrap": {"num_resamples": num_resamples, "seed": seed, "level": LEVEL, "unit": "video", "paired": True},
        "warnings": _warnings(systems, ranking),
    }


def require_one_protocol(results: Sequence[Result]) -> None:
    """Refuse results on other data, other candidates, other queries, or by other rules.

    Raises:
        ValueError: what differs, in which two results.
    """
    first = results[0].values["protocol"]
    for result in results[1:]:
        other = result.values["protocol"]
        for name in sorted(first.keys() | other.keys()):
            if first.get(name) != other.get(name):
                raise ValueError(
                    f"got {name}={first.get(name)!r} in {results[0].source} and {other.get(name)!r} in "
                    f"{result.source}, wanted one protocol: evaluate both on the same videos with the same queries"
                )


def name_systems(results: Sequence[Result]) -> list[str]:
    """A name for each system out of method, model and second stage; with its place where that is not enough."""
    names = []
    for result in results:
        stage = result.values.get("first_stage_k")
        method = f"{result.values['method']} " if "method" in result.values else ""
        names.append(f"{method}{result.values['model_id'][:8]}" + (f", best {stage} reranked" if stage else ""))
    counts = Counter(names)
    return [f"{name} ({i})" if counts[name] > 1 else name for i, name in enumerate(names, start=1)]


def metrics_of(result: Mapping[str, Any], ranking: str) -> Mapping[str, Any]:
    """Both directions' metrics of one ranking.

    Raises:
        ValueError: the result has no such ranking.
    """
    found = {MAIN: result, FIRST_STAGE: result.get(FIRST_STAGE), **result.get("normalised", {})}
    if not found.get(ranking):
        known = ", ".join(name for name, metrics in found.items() if metrics)
        raise ValueError(f"got --ranking {ranking!r}, which a result lacks; it has {known}")
    return found[ranking]


def _system(name: str, result: Result, ranking: str) -> dict[str, Any]:
    values, metrics = result.values, metrics_of(result.values, ranking)
    return {
        "name": name,
        "source": result.source,
        **{direction: metrics[direction] for direction in DIRECTIONS},
        "intervals": values["intervals"][ranking],
        **{name: values.get(name) for name in (*COSTS, *TOLD)},
    }


def _differences(first: Result, second: Result, ranking: str, num_resamples: int, seed: int) -> dict[str, Any]:
    found = {}
    for direction in DIRECTIONS:
        one, two = (_rows(result, ranking, direction) for result in (first, second))
        if not np.array_equal(one.id_n, two.id_n):
            raise ValueError(f"got ranks of other queries in {first.source} and {second.source}; evaluate both again")
        compared = paired_differences(one.rank_n, two.rank_n, one.video_n, num_resamples=num_resamples, seed=seed)
        found[direction] = {name: difference._asdict() for name, difference in compared.items()}
    return found


def _rows(result: Result, ranking: str, direction: str) -> RankRows:
    if (ranking, direction) not in result.ranks:
        raise ValueError(f"got {result.source}, whose ranks lack {ranking} {direction}; evaluate it again")
    return result.ranks[ranking, direction]


def _warnings(systems: Sequence[Mapping[str, Any]], ranking: str) -> list[str]:
    found = []
    if ranking not in (MAIN, FIRST_STAGE):
        found.append(f"All figures are with {ranking}, which looks at the queries of others: no live search has that.")
    for split in ("test", "unknown"):
        if chosen := [system["name"] for system in systems if system["select_on"] == split]:
            where = "on a test set" if split == "test" else "on a split that nobody told"
            found.append(f"Weights were selected {where}: {', '.join(chosen)}.")
    devices = {str((system["measured_on"] or {}).get("query")) for system in systems}
    if len(devices) > 1:
        found.append(
            f"Milliseconds were measured on different devices ({', '.join(sorted(devices))}): do not compare them."
        )
    if len(systems) > 2:
        found.append(
            f"{len(systems) - 1} systems are held against the first: among many, one differs by chance more often "
            "than its p tells."
        )
    return found
