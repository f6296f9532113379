"""``write_shards --dataset``: from annotation files to manifests, what does not fit together, and the dry run."""

import dataclasses
import json

import pytest

from jobs import index_shards, write_shards
from jobs.cli import DONE, OVER_BUDGET
from pipelines.manifest import load_manifest
from tests import annotation_files


@pytest.fixture
def msrvtt(tmp_path):
    (tmp_path / "annotations").mkdir()
    told = annotation_files.msrvtt_jsfusion(tmp_path / "annotations", train=20, test=4, captions=3)
    (tmp_path / "videos/more").mkdir(parents=True)
    for number, video in enumerate(name for part in told.values() for name in part):
        suffix = "mp4" if number % 2 else "webm"
        (tmp_path / "videos" / ("more" if number % 3 else "") / f"{video}.{suffix}").write_bytes(video.encode())
    return told


def args_of(tmp_path, **options):
    args = write_shards.Args(
        out=str(tmp_path / "out"),
        videos=str(tmp_path / "videos"),
        dataset="msrvtt-1k",
        annotations=str(tmp_path / "annotations"),
    )
    return dataclasses.replace(args, **options)


def test_from_annotation_files_to_manifests(tmp_path, msrvtt, capsys):
    report = write_shards.main(args_of(tmp_path))
    assert (report.exit_code, report.summary["num_samples"], report.summary["num_rejected"]) == (DONE, 24, 0)
    assert index_shards.main(index_shards.Args(root=str(tmp_path / "out"), max_rejected="0%")).exit_code == DONE
    manifests = {split: load_manifest(str(tmp_path / "out" / split)).table for split in ("train", "val", "test")}
    told = {
        split: dict(zip(table["video_id"].to_pylist(), table["captions"].to_pylist(), strict=True))
        for split, table in manifests.items()
    }
    assert told["train"] | told["val"] == msrvtt["train"]
    assert told["test"] == msrvtt["test"]
    assert len(told["val"]) == 2
    mark = json.loads((tmp_path / "out/test/_DATASET.json").read_text())
    assert (mark["dataset"], mark["protocol"], mark["split"]) == ("msrvtt-1k", "single", "test")
    assert (mark["num_videos"], mark["published_videos"], mark["num_to_write"]) == (4, 1000, 4)
    assert json.loads((tmp_path / "out/val/_DATASET.json").read_text())["note"] == "2 held out of train"
    assert "996 videos missing" in " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert write_shards.main(args_of(tmp_path)).summary["train"].endswith("(already there)")


def test_what_does_not_fit_together_is_counted_and_listed(tmp_path, msrvtt):
    (tmp_path / "videos/video0.webm").rename(tmp_path / "videos/video0.jpg")
    (tmp_path / "videos/stranger.mp4").write_bytes(b"x")
    with open(tmp_path / "annotations/MSRVTT_train.9k.csv", "a") as file:
        file.write("video1\nvideo20\n")
    for dry in (True, False):
        report = write_shards.main(args_of(tmp_path, dry_run=dry))
        found = report.summary["consistency"]
        assert report.exit_code == OVER_BUDGET
        assert found["captions_without_video"] == 1
        assert found["videos_without_captions"] == 1
        assert found["duplicate_ids"] == 1
        assert found["in_several_splits"] == 1
        assert {split["split"]: split["num_to_write"] for split in found["splits"]} == {
            "train": 18,
            "val": 2,
            "test": 4,
        }
        assert (tmp_path / "out").exists() != dry
        json.dumps(report.summary)
    assert [row["video"] for row in write_shards.main(args_of(tmp_path, dry_run=True)).summary["rejected"]] == [
        "video0"
    ]
    lines = (tmp_path / "out/rejected.jsonl").read_text().splitlines()
    assert [json.loads(line)["video"] for line in lines] == ["video0"]


def test_a_dry_run_needs_no_videos(tmp_path, msrvtt):
    report = write_shards.main(args_of(tmp_path, dry_run=True, videos="", out="", hold_out=0))
    assert (report.exit_code, report.summary["train"], report.summary["test"]) == (DONE, "20 samples", "4 samples")
    assert "--videos" in report.next_command
    (tmp_path / "t.csv").write_text("video,caption\ns3://bucket/a.mp4,x\nb.mp4,\n")
    report = write_shards.main(write_shards.Args(captions=str(tmp_path / "t.csv"), dry_run=True))
    assert (report.summary["num_samples"], report.summary["problem: empty_caption"]) == (2, 1)
    with pytest.raises(ValueError, match="neither videos nor captions"):
        write_shards.main(write_shards.Args(dry_run=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"out": ""}, "got no --out"),
        ({"annotations": ""}, "got --dataset, wanted --dataset and --annotations"),
        ({"dataset": ""}, "got --annotations, wanted --dataset and --annotations"),
        ({"captions": "t.csv"}, "got --dataset and --annotations and --captions, wanted"),
        ({"videos": ""}, "without --videos"),
        ({"dataset": "", "annotations": "", "captions": "t.csv", "layout": "jsonl"}, "without --dataset"),
        ({"dataset": "mrsvtt"}, "got --dataset 'mrsvtt', wanted one of msrvtt-1k"),
        ({"hold_out": -1}, "got --hold-out -1 of 20 training videos"),
        ({"layout": "vindlu"}, "wanted train.json"),
    ],
)
def test_options_that_do_not_go_together(tmp_path, msrvtt, options, message):
    with pytest.raises(ValueError, match=r".") as refused:
        write_shards.main(args_of(tmp_path, **options))
    assert message in str(refused.value)
    assert not (tmp_path / "out/train").exists()


def test_half_a_surrogate_pair_costs_nothing(tmp_path):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos/a.mp4").write_bytes(b"x")
    (tmp_path / "annotations/test.jsonl").write_text(r'{"clip_id": "a", "text": "half \ud83d a dog 🐕"}')
    write_shards.main(args_of(tmp_path, dataset="captions", layout="jsonl"))
    assert index_shards.main(index_shards.Args(root=str(tmp_path / "out"), max_rejected="0%")).exit_code == DONE
    assert load_manifest(str(tmp_path / "out/test")).table["captions"].to_pylist() == [["half \\ud83d a dog 🐕"]]


def test_paragraphs_of_a_format_for_any_data_set(tmp_path):
    (tmp_path / "annotations").mkdir()
    told = annotation_files.jsonl(tmp_path / "annotations", captions=2)
    (tmp_path / "videos").mkdir()
    for video in (name for part in told.values() for name in part):
        (tmp_path / "videos" / f"{video}.mp4").write_bytes(b"x")
    args = args_of(tmp_path, dataset="paragraphs", layout="jsonl", split_files={"test": "train.jsonl"})
    assert write_shards.main(args).summary["protocol"].startswith("paragraph: all captions of a video")
    index_shards.main(index_shards.Args(root=str(tmp_path / "out")))
    captions = load_manifest(str(tmp_path / "out/test")).table["captions"].to_pylist()
    assert captions == [[" ".join(texts)] for texts in told["train"].values()]
