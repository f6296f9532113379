"""Results are read back as they were written, and only whole."""

import json

import numpy as np
import pytest
import torch

from fpig_core.evaluation import Extras, Queries, Subject, evaluate_scores
from jobs.compare import Args, main
from jobs.results import read_result, write_evaluation

NUM = 30
IDS = tuple(f"v{i}" for i in range(NUM))


def judge(folder, name, *, noise, seed=0, ids=IDS, data_id="data", texts=None, **subject):
    """A system that scores by chance, plus a bonus for the right video."""
    generator = torch.Generator().manual_seed(seed)
    score = torch.eye(len(ids)) + noise * torch.rand(len(ids), len(ids), generator=generator)
    queries = Queries(ids=ids, texts=texts or ids, video_ids=ids)
    judged = evaluate_scores(
        queries,
        ids,
        score,
        subject=Subject(model_id=name, data_id=data_id, **subject),
        extras=Extras(num_resamples=20),
    )
    path = folder / f"{name}.json"
    costs = {"ms_per_query": 2.0 + seed, "bytes_per_video": 100.0, "videos_per_s": None}
    write_evaluation(path, judged, further=costs)
    return str(path)


def test_ranks_come_back_by_id(tmp_path):
    found = read_result(judge(tmp_path, "a", noise=2))
    assert found.values["schema"] == "fpig.evaluation/1"
    t2v = found.ranks["main", "t2v"]
    assert t2v.id_n.tolist() == sorted(IDS)
    assert t2v.rank_n.mean() == pytest.approx(found.values["t2v"]["MnR"])
    assert found.ranks["main", "v2t"].rank_n.mean() == pytest.approx(found.values["v2t"]["MnR"])


def test_equal_evaluations_are_equal_files(tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        judge(tmp_path / folder, "a", noise=2)
    for name in ("a.json", "a.ranks.parquet"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_results_that_are_not_whole_are_refused(tmp_path):
    path = judge(tmp_path, "a", noise=2)
    other = judge(tmp_path, "b", noise=1)
    with pytest.raises(ValueError, match="no result at"):
        read_result(str(tmp_path / "none.json"))
    (tmp_path / "b.ranks.parquet").write_bytes((tmp_path / "a.ranks.parquet").read_bytes())
    with pytest.raises(ValueError, match="ranks of another evaluation"):
        read_result(other)
    (tmp_path / "a.ranks.parquet").unlink()
    with pytest.raises(ValueError, match=r"without a\.ranks\.parquet beside it"):
        read_result(path)
    (tmp_path / "old.json").write_text(json.dumps({"t2v": {}}))
    with pytest.raises(ValueError, match="schema None, wanted"):
        read_result(str(tmp_path / "old.json"))
    (tmp_path / "no.json").write_text("no")
    with pytest.raises(ValueError, match="no JSON"):
        read_result(str(tmp_path / "no.json"))
    with pytest.raises(ValueError, match="give --tracking"):
        read_result("runs:/0123")


def test_systems_are_held_against_the_first_query_by_query(tmp_path):
    paths = (judge(tmp_path, "weak", noise=4), judge(tmp_path, "strong", noise=1.2, seed=1, select_on="test"))
    args = Args(
        results=paths, resamples=200, html=str(tmp_path / "c.html"), markdown=str(tmp_path / "c.md"), json="c.json"
    )
    summary = main(args).summary
    weak, strong = (read_result(path) for path in paths)
    (pair,) = summary["differences"]
    expected = strong.values["t2v"]["R@1"] - weak.values["t2v"]["R@1"]
    assert pair["t2v"]["R@1"]["difference"] == pytest.approx(expected)
    assert pair["t2v"]["R@1"]["low"] > 0
    ranks = [result.ranks["main", "t2v"].rank_n for result in (weak, strong)]
    assert pair["t2v"]["MnR"]["difference"] == pytest.approx(np.mean(ranks[1] - ranks[0]))
    assert any("selected on a test set: strong" in warning for warning in summary["warnings"])
    page, text = (tmp_path / "c.html").read_text(), (tmp_path / "c.md").read_text()
    assert page.count("<svg") == 4
    assert "selected on a test set" in page
    assert f"{pair['t2v']['R@1']['difference']:+.1f}" in page
    assert f"{pair['t2v']['R@1']['difference']:+.1f}" in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data_id": "other"}, "got manifest_digest='data' in .* and 'other'"),
        ({"ids": IDS[:-1]}, "got candidates_digest="),
        ({"texts": tuple(reversed(IDS))}, "got queries_digest="),
        ({"queries": "paragraph"}, "got queries='given' in .* and 'paragraph'"),
    ],
)
def test_other_protocols_are_refused(tmp_path, changes, message):
    paths = (judge(tmp_path, "a", noise=2), judge(tmp_path, "b", noise=2, **changes))
    with pytest.raises(ValueError, match=message):
        main(Args(results=paths))


def test_requests_that_make_no_comparison_are_refused(tmp_path):
    one, two = judge(tmp_path, "a", noise=2), judge(tmp_path, "b", noise=2)
    with pytest.raises(ValueError, match="at least two"):
        main(Args(results=(one,)))
    with pytest.raises(ValueError, match="1 names for 2 results"):
        main(Args(results=(one, two), names=("x",)))
    with pytest.raises(ValueError, match="lacks; it has main"):
        main(Args(results=(one, two), ranking="first_stage"))


def test_hostile_names_are_mere_text(tmp_path):
    paths = (judge(tmp_path, "a", noise=2), judge(tmp_path, "b", noise=2))
    names = ("<script>x</script>", "a|b\n# c")
    main(Args(results=paths, names=names, html=str(tmp_path / "c.html"), markdown=str(tmp_path / "c.md")))
    page, text = (tmp_path / "c.html").read_text(), (tmp_path / "c.md").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "a\\|b \\# c" in text
    assert "<script" not in text.replace("\\<script", "")
