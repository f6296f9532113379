"""What a write task leaves when another one is at work."""

import contextlib

import numpy as np
import pytest
import ray

from pipelines import embed_stages, storage
from pipelines.embed import EmbedSettings, plan_embedding
from pipelines.parts import quarantine_bytes, read_table
from tests.worlds import PREPROCESS, write_model, write_shards


@pytest.mark.parametrize("times", [0, 1, 99])
def test_files_of_two_writers_end_as_a_pair(tmp_path, monkeypatch, times):
    """Another job, for which a sound video was too slow, writes its quarantine file before this one's part."""
    write_model(tmp_path / "model")
    settings = EmbedSettings(part_rows=12, batch_size=4)
    places = {"model_url": str(tmp_path / "model"), "out_url": str(tmp_path / "corpus")}
    plan = plan_embedding(write_shards(tmp_path / "shards", 8), settings=settings, **places)
    given = {column.name: np.ones((8, *column.shape), plan.spec.given(column)) for column in plan.spec.columns}
    empty = np.array([""] * 8)
    part, batch = plan.parts[0], {"row": np.arange(8), "reason": empty, "detail": empty} | given
    work = embed_stages.Work(
        manifest=plan.manifest,
        parts=plan.parts,
        spec=plan.spec,
        written=plan.written,
        preprocess=PREPROCESS,
        out_url=plan.out_url,
        batch_size=4,
    )
    why = {"stage": ["decode"], "reason": ["too_slow"], "detail": [""]}
    theirs = quarantine_bytes(plan.spec, plan.manifest.slice(5, 6), why, written=plan.written)
    write, left = storage.write_bytes, iter(range(times))

    def write_after_them(url, data):
        if url == part.url(plan.out_url) and next(left, None) is not None:
            write(part.quarantine_url(plan.out_url), theirs)
        write(url, data)

    monkeypatch.setattr(storage, "write_bytes", write_after_them)
    monkeypatch.setattr(ray, "get", lambda work: work)
    with pytest.raises(RuntimeError, match="another job keeps writing") if times > 9 else contextlib.nullcontext():
        embed_stages.write_part(batch, refs=[work])
        assert read_table(part.quarantine_url(plan.out_url)).num_rows == 0
        assert read_table(part.url(plan.out_url)).num_rows == 8
