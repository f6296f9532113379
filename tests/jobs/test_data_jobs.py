import dataclasses
import json
import subprocess
import sys

import pytest

from fpig_core.preprocess import Preprocess
from jobs import index_shards, make_synthetic, write_shards
from jobs.cli import DONE, OVER_BUDGET
from pipelines.decode import decode_sample
from pipelines.manifest import load_manifest
from tests.pipelines.test_tarwalk import make_tar
from tests.rows import videos_of_rows


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    out = tmp_path_factory.mktemp("world")
    args = make_synthetic.Args(out=str(out), train=3, val=1, test=2, size=32, frames=6, workers=1)
    assert make_synthetic.main(args).summary["written"]
    assert not make_synthetic.main(args).summary["written"]
    return out


def pack(world, out, **options):
    args = write_shards.Args(videos=str(world / "videos"), captions=str(world / "captions.csv"), out=str(out))
    return dataclasses.replace(args, **options)


def test_from_world_to_manifests(world, tmp_path):
    report = write_shards.main(pack(world, tmp_path))
    assert (report.summary["num_rejected"], report.summary["doubts"]) == (0, [])
    assert report.next_command == f"python -m jobs.index_shards {tmp_path}"
    report = index_shards.main(index_shards.Args(root=str(tmp_path), max_rejected="0%"))
    assert report.exit_code == DONE
    assert {name: found["num_ok"] for name, found in report.summary["sets"].items()} == {
        "test": 4,
        "train": 3,
        "val": 1,
    }
    assert load_manifest(str(tmp_path / "test")).num_captioned == 4
    json.dumps(report.summary)


def test_stills_take_the_same_way(tmp_path):
    args = make_synthetic.Args(
        out=str(tmp_path), train=0, val=0, test=0, corrupt=0, stills=30, size=32, frames=1, workers=1
    )
    report = make_synthetic.main(args)
    assert report.next_command == (
        f"python -m jobs.write_shards --videos {tmp_path}/stills --captions {tmp_path}/stills.csv "
        f"--out {tmp_path}/still_shards"
    )
    shards = str(tmp_path / "still_shards")
    packed = write_shards.main(
        write_shards.Args(videos=str(tmp_path / "stills"), captions=str(tmp_path / "stills.csv"), out=shards)
    )
    assert (packed.summary["num_rejected"], packed.summary["doubts"]) == (0, [])
    report = index_shards.main(index_shards.Args(root=shards, max_rejected="0%"))
    assert report.exit_code == DONE
    assert {name: found["num_captioned"] for name, found in report.summary["sets"].items()} == {"train": 27, "val": 3}
    manifest = load_manifest(f"{shards}/val")
    assert manifest.table.column("video_suffix").to_pylist() == ["jpg"] * 3
    for record, data in zip(manifest.table.to_pylist(), videos_of_rows(manifest, range(3)), strict=True):
        frames = decode_sample(record, data, preprocess=Preprocess(num_frames=1, size=32))
        assert frames.shape == (1, 3, 32, 32)
    assert not make_synthetic.main(args).summary["written"]


def test_relative_places_mean_the_current_folder(world, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.txt").write_text("\n".join(str(path) for path in sorted((world / "videos").glob("*.mp4"))))
    report = write_shards.main(dataclasses.replace(pack(world, "out"), videos="list.txt"))
    assert (report.exit_code, report.summary["num_samples"]) == (DONE, 8)
    again = write_shards.main(dataclasses.replace(pack(world, tmp_path / "out"), videos=str(tmp_path / "list.txt")))
    assert "already there" in again.summary["train"]


def test_what_is_left_out_is_listed_and_counted_against_the_budget(world, tmp_path):
    (tmp_path / "t.csv").write_text((world / "captions.csv").read_text() + "gone.mp4,a caption,val,gone\n")
    args = pack(world, tmp_path / "out", captions=str(tmp_path / "t.csv"), transcode=True, num_workers=1)
    report = write_shards.main(args)
    assert report.exit_code == OVER_BUDGET
    lines = [json.loads(line) for line in (tmp_path / "out/rejected.jsonl").read_text().splitlines()]
    reasons = {line["video"]: (line["reason"], line["split"]) for line in lines}
    assert reasons.pop("gone.mp4") == ("missing_video", "")
    assert {split for _, split in reasons.values()} == {"test"}
    assert len(reasons) == 2
    assert (report.summary["num_samples"], report.summary["num_rejected"]) == (6, 3)
    assert write_shards.main(dataclasses.replace(args, max_rejected="50%")).exit_code == DONE
    indexed = index_shards.main(index_shards.Args(root=str(tmp_path / "out"), max_rejected="0%"))
    assert {name: found["num_ok"] for name, found in indexed.summary["sets"].items()} == {
        "test": 2,
        "train": 3,
        "val": 1,
    }
    assert indexed.exit_code == DONE


def test_one_set_is_indexed_where_it_lies(world, tmp_path):
    write_shards.main(pack(world, tmp_path))
    assert list(index_shards.find_sets(str(tmp_path / "val")).values()) == [str(tmp_path / "val")]
    with pytest.raises(ValueError, match="write_shards"):
        index_shards.find_sets(str(tmp_path / "none"))


@pytest.mark.parametrize(("budget", "exit_code"), [("100%", DONE), ("50%", OVER_BUDGET), ("0", OVER_BUDGET)])
def test_a_damaged_set_is_over_budget(world, tmp_path, budget, exit_code):
    write_shards.main(pack(world, tmp_path))
    shard = tmp_path / "train/shard-000000.tar"
    shard.write_bytes(shard.read_bytes()[:-12_000])
    report = index_shards.main(index_shards.Args(root=str(tmp_path), max_rejected=budget))
    assert report.exit_code == exit_code
    assert "train: train/shard-000000.tar" not in report.summary
    assert "cut_member" in report.summary["train: shard-000000.tar"]


def test_a_census_is_printed_and_written(world, tmp_path, capsys):
    write_shards.main(pack(world, tmp_path))
    (tmp_path / "train/\x1b[31mforeign.tar").write_bytes(b"no tar")
    first, second = (index_shards.main(index_shards.Args(root=str(tmp_path), probe=True)) for _ in range(2))
    out = capsys.readouterr().out
    assert "Census of train" in out
    assert "h264" in out
    assert "\x1b[31mforeign" not in out
    found = second.summary["sets"]["train"]
    assert (first.summary["sets"]["train"]["num_read"], found["num_read"]) == (2, 0)
    assert (found["codecs"], found["sizes"]) == ({"h264": 3}, {"32×32": 3})
    assert [bad["code"] for bad in found["bad_shards"]] == ["not_a_tar"]
    json.dumps(second.summary)


def test_videos_that_cannot_be_probed_count_against_the_budget(tmp_path):
    (tmp_path / "a.tar").write_bytes(make_tar([("a.mp4", b"no video"), ("a.txt", b"words")]))
    codes = [
        index_shards.main(index_shards.Args(root=str(tmp_path), max_rejected="50%", probe=probe)).exit_code
        for probe in (False, True)
    ]
    assert codes == [DONE, OVER_BUDGET]


@pytest.mark.parametrize("job", ["make_synthetic", "write_shards", "index_shards"])
def test_help_shows_an_example(job):
    result = subprocess.run([sys.executable, "-m", f"jobs.{job}", "--help"], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0
    assert f"Example: python -m jobs.{job}" in result.stdout
