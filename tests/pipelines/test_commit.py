"""A corpus is of one kind and grows; a commit that would lose something is refused."""

import dataclasses

import pytest

from pipelines import storage
from pipelines.commit import commit, remove_manifests, require_same
from pipelines.corpus import manifest_of, read_committed, read_corpus
from pipelines.part_files import Tally, count_parts, missing_parts
from pipelines.part_plan import plan_parts
from pipelines.parts import Written
from pipelines.verify import verify_corpus
from tests.corpora import DIM, VECTOR, WIDE, make_manifest, make_spec, write_corpus, write_part


@pytest.fixture
def manifest():
    return make_manifest(10)


@pytest.mark.parametrize("committed", [True, False])
@pytest.mark.parametrize(
    "change",
    [
        {"model_id": "other"},
        {"part_rows": 5},
        {"dtype": "float32"},
        {"precision": "bf16"},
        {"columns": WIDE},
        {"columns": (dataclasses.replace(VECTOR, shape=(DIM + 1,)),)},
    ],
)
def test_another_kind_of_corpus_is_refused(manifest, tmp_path, change, committed):
    url, spec = str(tmp_path), make_spec()
    require_same(url, spec)
    if committed:
        write_corpus(url, spec, manifest)
    else:
        write_part(url, spec, manifest, plan_parts(manifest, spec.digest, part_rows=4)[0])
    require_same(url, spec)
    with pytest.raises(ValueError, match=rf"{next(iter(change))}=.*this request has"):
        require_same(url, make_spec(**change))


def test_a_grown_manifest_needs_its_new_shards_alone(tmp_path):
    """The old corpus can be read until the new one is committed; then both kinds of parts tell who wrote them."""
    url, spec = str(tmp_path), make_spec()
    small, large = make_manifest(10, shard_rows=5), make_manifest(17, shard_rows=5)
    first = write_corpus(url, spec, small)
    before = read_committed(url)
    parts = plan_parts(large, spec.digest, part_rows=4)
    missing = missing_parts(url, parts)
    assert [row for part in missing for row in range(part.start, part.stop)] == list(range(10, 17))
    write_part(url, spec, large, missing[0])
    assert len(read_corpus(url).uids) == 8
    write_corpus(url, spec, large)
    assert read_corpus(url).uids[:8] == [small.table.column("uid")[row].as_py() for row in range(10) if row % 5]
    after = read_committed(url)
    assert after["parts"][: len(first)] == before["parts"]
    assert [each["parts_digest"] for each in after["previous"]] == [before["parts_digest"]]
    report = verify_corpus(url, large)
    assert (report.problems, report.num_left_over) == ((), 0)
    assert report.manifests == {small.digest: 4, large.digest: 3}


def test_a_second_commit_of_the_same_corpus_leaves_the_first(manifest, tmp_path):
    write_corpus(str(tmp_path), make_spec(), manifest)
    before = (tmp_path / "_COMMITTED.json").read_bytes()
    parts = plan_parts(manifest, make_spec().digest, part_rows=4)
    late = {"parts": parts, "counts": Tally(parts, count_parts(str(tmp_path), parts)), "lineage": {"model": "late"}}
    late |= {"manifest": manifest, "written": Written(manifest_digest=manifest.digest)}
    meta = commit(str(tmp_path), spec=make_spec(), **late)
    assert meta["model"] == "somewhere"
    assert (tmp_path / "_COMMITTED.json").read_bytes() == before


def test_an_older_manifest_takes_nothing_away_unless_that_is_wanted(tmp_path):
    """A job that planned before the set grew commits after one that planned later."""
    url, spec = str(tmp_path), make_spec()
    small, large = make_manifest(10, shard_rows=5), make_manifest(17, shard_rows=5)
    write_corpus(url, spec, large)
    with pytest.raises(ValueError, match=r"holds 3 parts with videos that are not in this manifest.*--stale leave"):
        write_corpus(url, spec, small)
    assert read_committed(url)["manifest_digest"] == large.digest
    write_corpus(url, spec, small, may_shrink=True)
    assert read_committed(url)["manifest_digest"] == small.digest


def test_a_manifest_that_was_written_anew_is_not_committed(manifest, tmp_path):
    url, spec = str(tmp_path), make_spec()
    other = make_manifest(12)
    storage.copy(other.url, manifest.url)
    parts = plan_parts(other, spec.digest, part_rows=4)
    for part in parts:
        write_part(url, spec, other, part)
    counts = Tally(parts, count_parts(url, parts))
    terms = {"spec": spec, "parts": parts, "counts": counts, "written": Written(manifest_digest=manifest.digest)}
    for _ in range(2):
        with pytest.raises(ValueError, match="it was written anew; run the same command again"):
            commit(url, manifest=manifest, lineage={"model": "", "manifest": ""}, **terms)
    assert storage.list_files(f"{url}/manifests") == []


def test_a_manifest_that_is_gone_is_kept_by_another_commit(manifest, tmp_path):
    url, spec = str(tmp_path), make_spec()
    write_corpus(url, spec, manifest)
    before = read_committed(url)
    storage.remove(storage.list_files(f"{url}/manifests")[0])
    with pytest.raises(ValueError, match=r"got no manifest at .*manifests/.*the same embed_corpus command keeps it"):
        manifest_of(url, before)
    write_corpus(url, spec, manifest)
    assert manifest_of(url, read_committed(url)).table.equals(manifest.table)
    assert read_committed(url) == before


def test_manifests_of_earlier_commits_stay_until_they_are_removed(tmp_path):
    url, spec = str(tmp_path), make_spec()
    small, large = make_manifest(10, shard_rows=5), make_manifest(17, shard_rows=5)
    write_corpus(url, spec, small)
    write_corpus(url, spec, large)
    assert len(storage.list_files(f"{url}/manifests")) == 2
    remove_manifests(url, keep=large.digest)
    assert manifest_of(url, read_committed(url)).table.equals(large.table)
    assert len(storage.list_files(f"{url}/manifests")) == 1
