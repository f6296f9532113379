"""Results of evaluations as files: ``NAME.json``, and beside it ``NAME.ranks.parquet`` with the rank of every query.

``docs/evaluation.md`` describes both. Others' results, made by ``fpig_core.evaluation``, are written by the same
``write_evaluation`` and can then be compared.
"""

import contextlib
import hashlib
import io
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fpig_core.evaluation import SCHEMA, Evaluation
from jobs.cli import write_json

RANKS_SUFFIX = ".ranks.parquet"
RUNS = "runs:/"
FOLDER, RESULT_NAME, RANKS_NAME = "evaluation", "result.json", "result.ranks.parquet"
"""Where MLflow runs keep a result among their artifacts."""
_NAME = pa.dictionary(pa.int8(), pa.string())
RANKS_SCHEMA = pa.schema(
    [
        ("ranking", _NAME),  # main, first_stage, or the full name of a normaliser
        ("direction", _NAME),  # t2v or v2t
        ("id", pa.string()),  # of the query; from video to text of the video
        ("video", pa.string()),  # that the query describes
        ("rank", pa.int32()),
    ]
)


class RankRows(NamedTuple):
    """Ranks of one direction, in the order of their ids: ``id_n``, ``video_n`` and ``rank_n``."""

    id_n: np.ndarray
    video_n: np.ndarray
    rank_n: np.ndarray


class Result(NamedTuple):
    """A result that was read back; ``ranks`` by ranking and direction."""

    source: str
    values: dict[str, Any]
    ranks: dict[tuple[str, str], RankRows]


def write_evaluation(path: str | Path, judged: Evaluation, *, further: Mapping[str, Any] | None = None) -> Path:
    """Write the result, and ``further`` fields of one's own, to ``path``, the ranks beside it -> place of the ranks.

    Raises:
        ValueError: a path that does not end in .json.
    """
    path = Path(path)
    ranks_path, data = ranks_beside(path), ranks_file(judged)
    path.parent.mkdir(parents=True, exist_ok=True)
    ranks_path.write_bytes(data)
    write_json(str(path), {**judged.result, **(further or {}), "ranks_digest": digest_of(data)})
    return ranks_path


def ranks_beside(path: Path) -> Path:
    """Place of the ranks of the result at ``path``."""
    if path.suffix != ".json":
        raise ValueError(f"got {path} for a result, wanted a file that ends in .json")
    return path.with_name(path.stem + RANKS_SUFFIX)


def ranks_file(judged: Evaluation) -> bytes:
    """All ranks of an evaluation as the bytes of a Parquet file; equal ranks give equal bytes."""
    tables = []
    for ranking, found in judged.ranks.items():
        captioned = [judged.video_ids[i] for i in found.video_R.tolist()]
        for direction, ids, videos, rank in (
            ("t2v", judged.queries.ids, judged.queries.video_ids, found.t2v_Q),
            ("v2t", captioned, captioned, found.v2t_R),
        ):
            names = [pa.array([name] * len(ids), pa.string()).dictionary_encode() for name in (ranking, direction)]
            columns = [*(name.cast(_NAME) for name in names), pa.array(ids), pa.array(videos), pa.array(rank.numpy())]
            tables.append(
                pa.table(
                    [columns[0], columns[1], columns[2], columns[3], columns[4].cast(pa.int32())], schema=RANKS_SCHEMA
                )
            )
    sink = io.BytesIO()
    pq.write_table(pa.concat_tables(tables).unify_dictionaries(), sink, compression="zstd")
    return sink.getvalue()


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]


def read_result(source: str, *, tracking: str = "") -> Result:
    """A result by the path of its JSON, or that of an MLflow run as ``runs:/RUN``.

    Raises:
        ValueError: there is none, it has another schema, or its ranks are missing or of another evaluation.
    """
    with _local_json(source, tracking=tracking) as path:
        try:
            values = json.loads(path.read_text())
        except FileNotFoundError:
            raise ValueError(f"got no result at {source}; run python -m jobs.evaluate --json {source}") from None
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"got {source}, which is no JSON: {error}") from None
        schema = values.get("schema") if isinstance(values, dict) else None
        if schema != SCHEMA:
            raise ValueError(
                f"got {source} with schema {schema!r}, wanted {SCHEMA!r}; run python -m jobs.evaluate again"
            )
        ranks_path = ranks_beside(path)
        if not ranks_path.exists():
            raise ValueError(f"got {source} without {ranks_path.name} beside it; copy both, or evaluate again")
        data = ranks_path.read_bytes()
    if digest_of(data) != values["ranks_digest"]:
        raise ValueError(f"got {source} beside ranks of another evaluation; copy both files, or evaluate again")
    return Result(source, values, _by_direction(pq.read_table(io.BytesIO(data))))


def _by_direction(table: pa.Table) -> dict[tuple[str, str], RankRows]:
    found: dict[tuple[str, str], RankRows] = {}
    kinds = {
        (row["ranking"], row["direction"]) for row in table.group_by(["ranking", "direction"]).aggregate([]).to_pylist()
    }
    for ranking, direction in kinds:
        rows = table.filter((pc.field("ranking") == ranking) & (pc.field("direction") == direction)).sort_by("id")
        columns = (rows.column(name).to_numpy() for name in ("id", "video", "rank"))
        found[ranking, direction] = RankRows(*columns)
    return found


@contextlib.contextmanager
def _local_json(source: str, *, tracking: str) -> Iterator[Path]:
    if not source.startswith(RUNS):
        yield Path(source)
        return
    if tracking in ("", "none"):
        raise ValueError(f"got {source} and no MLflow to find it by; give --tracking")
    # MLflow takes seconds to import: only who asks it pays for that.
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    from cluster.redact import redact

    run_id = source.removeprefix(RUNS).strip("/")
    with tempfile.TemporaryDirectory(prefix="fpig-result-") as folder:
        try:
            local = download_artifacts(run_id=run_id, artifact_path=FOLDER, dst_path=folder, tracking_uri=tracking)
        except (MlflowException, OSError) as error:
            raise ValueError(
                f"got no result at {source}: {redact(error)}; wanted a run of python -m jobs.evaluate --tracking"
            ) from None
        yield Path(local) / RESULT_NAME
