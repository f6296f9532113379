"""An alias moves to a model that searches as well as the one before, and to no other."""

import dataclasses

import numpy as np
import pytest
from mlflow import MlflowClient

from cluster.tracking import TrackerSpec, open_tracker
from fpig_core.bundle import bundle_id, load_bundle
from fpig_core.retrieval import encode_queries
from jobs.check_drift import Args, main
from jobs.cli import DONE, FAILED
from pipelines.embed import EmbedSettings
from tests.worlds import caption_of, write_corpus, write_model, write_shards

NUM_ROWS = 12
SETTINGS = EmbedSettings(part_rows=4, batch_size=4)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Two models with complete canary corpora, so that nothing has to be embedded; the second ranks by chance."""
    root = tmp_path_factory.mktemp("world")
    manifest = write_shards(root / "shards", NUM_ROWS)
    texts = [caption_of(number) for number in range(NUM_ROWS)]
    for seed, name in enumerate(("first", "second")):
        model_id = write_model(root / name, seed=seed)
        vectors = encode_queries(load_bundle(root / name), texts)
        if name == "second":
            vectors = np.roll(vectors, 5, axis=0)
        write_corpus(str(root / "canary" / model_id), manifest, vectors, model_id=model_id, model=str(root / name))
    return root


@pytest.fixture
def gate(world, monkeypatch):
    monkeypatch.setattr("jobs.check_drift.embed_corpus.main", lambda args: None)
    return Args(
        candidate=str(world / "second"),
        current=str(world / "first"),
        manifest=str(world / "shards"),
        out=str(world / "canary"),
        tracking="none",
    )


def test_what_is_beyond_its_limit_is_told(gate, capsys):
    report = main(gate)
    assert report.exit_code == FAILED
    assert "t2v R@1" in report.summary["beyond"]
    assert not report.summary["passed"]
    assert "BEYOND" in capsys.readouterr().out
    same = main(dataclasses.replace(gate, candidate=gate.current))
    assert (same.exit_code, same.summary["beyond"], same.summary["moved"]) == (DONE, [], "no")


@pytest.mark.slow
def test_the_alias_moves_only_to_a_model_that_passes(gate, world, tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    with open_tracker(TrackerSpec(uri=uri, run_name="train", spool_dir=str(tmp_path / "spool"))) as tracker:
        for folder, alias in (("first", "gate@production"), ("second", "gate"), ("first", "gate")):
            assert tracker.log_model(world / folder, register_as=alias)
    client, args = MlflowClient(uri), dataclasses.replace(gate, current="", register_as="gate@production", tracking=uri)
    assert main(dataclasses.replace(args, candidate="models:/gate/2")).exit_code == FAILED
    assert str(client.get_model_version_by_alias("gate", "production").version) == "1"
    report = main(dataclasses.replace(args, candidate="models:/gate/3"))
    assert (report.exit_code, report.summary["moved"]) == (DONE, "to version 3")
    assert str(client.get_model_version_by_alias("gate", "production").version) == "3"
    report = main(dataclasses.replace(args, candidate=str(world / "first")))
    assert (report.exit_code, report.summary["moved"]) == (DONE, "to a new version")
    now = client.get_model_version_by_alias("gate", "production")
    assert (str(now.version), now.tags["model_id"]) == ("4", bundle_id(world / "first"))


def test_wrong_requests_are_refused(gate):
    for change, message in (
        ({"register_as": "fpig"}, "wanted NAME@ALIAS"),
        ({"current": ""}, "neither --current nor --register-as"),
    ):
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(gate, **change)


@pytest.mark.slow
def test_canary_sets_are_embedded_when_they_are_not_there(ray_local, tmp_path):
    write_model(tmp_path / "model")
    write_shards(tmp_path / "shards", 8, flaws={2: "no_video"})
    model, shards, out = (str(tmp_path / name) for name in ("model", "shards", "out"))
    args = Args(candidate=model, current=model, manifest=shards, out=out, tracking="none", settings=SETTINGS)
    report = main(args)
    assert (report.exit_code, report.summary["passed"]) == (DONE, True)
    rejected = next(check for check in report.summary["checks"] if check["name"] == "rejected share")
    assert rejected["candidate"] == 1 / 8
