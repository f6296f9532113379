"""A shard is shown with what is wrong and what to do, and nothing in it reaches the terminal unfiltered."""

import json

import pytest
from PIL import Image

from jobs.inspect_shard import Args, main
from jobs.remedies import REMEDIES
from pipelines.quarantine import STAGES
from pipelines.samples import NOTES
from pipelines.tarwalk import SHARD_REASONS
from tests.pipelines.test_tarwalk import make_tar
from tests.pipelines.videos import make_video

VIDEO = make_video(num_frames=8)
META = json.dumps({"captions": ["one", "two"]}).encode()


@pytest.fixture
def shard(tmp_path):
    members = [
        *[(f"v{number}.{suffix}", data) for number in range(4) for suffix, data in (("mp4", VIDEO), ("json", META))],
        *[("bad.mp4", b"no video"), ("lost.txt", b"words"), ("v0.txt", b"late")],
        *[("esc\x1b[31m.mp4", VIDEO), ("esc\x1b[31m.txt", b"\x1b]0;title\x07 [red]x[/nonsense]")],
    ]
    path = tmp_path / "a.tar"
    data = make_tar(members).rstrip(b"\0")
    path.write_bytes(data + bytes(-len(data) % 512))
    return path


def test_everything_that_can_be_wrong_has_a_remedy():
    assert set(REMEDIES) == {*SHARD_REASONS, *NOTES, *STAGES["index"], *STAGES["decode"]}


def test_samples_faults_and_remedies_are_told(shard, tmp_path, capsys):
    report = main(Args(shard=str(shard), out=str(tmp_path / "a.png")))
    samples = {sample["key"]: sample for sample in report.summary["samples"]}
    assert samples["v1"]["members"] == {"mp4": len(VIDEO), "json": len(META)}
    assert (samples["v1"]["captions"], samples["v1"]["codec"], samples["v1"]["width"]) == (["one", "two"], "h264", 64)
    assert {key: sample["status"] for key, sample in samples.items() if sample["status"] != "ok"} == {
        "lost": "no_video"
    }
    assert samples["bad"]["probe"] == "bad_container"
    told = {fault["what"]: fault["remedy"] for fault in report.summary["faults"]}
    assert told == {
        "shard: no_end": REMEDIES["no_end"],
        "1 × no_video": REMEDIES["no_video"],
        "1 × bad_container": REMEDIES["bad_container"],
        "1 × scattered": REMEDIES["scattered"],
    }
    assert report.next_command == f"python -m jobs.index_shards {shard.parent}"
    json.dumps(report.summary)
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.width > 900
    out = capsys.readouterr().out
    assert "What is wrong" in out
    assert "\x1b" not in out
    assert "\x07" not in out


def test_what_is_faulty_is_shown_first(shard, capsys):
    main(Args(shard=str(shard), num_samples=2))
    table = capsys.readouterr().out.partition("What is wrong")[0]
    assert "2 of 7 samples" in table
    assert "bad" in table
    assert "v1" not in table


def test_one_sample_can_be_asked_for(shard, capsys):
    main(Args(shard=str(shard), key=("v2",)))
    assert "1 of 7 samples" in capsys.readouterr().out


@pytest.mark.parametrize("data", [b"", b"no tar", b"\x1f\x8b1234"])
def test_a_file_that_is_no_shard_is_explained(tmp_path, data):
    (tmp_path / "a.tar").write_bytes(data)
    report = main(Args(shard=str(tmp_path / "a.tar"), out=str(tmp_path / "a.png")))
    (fault,) = report.summary["faults"]
    assert fault["remedy"] in REMEDIES.values()


@pytest.mark.parametrize(
    ("change", "told"),
    [({"shard": "none.tar"}, r"wanted the \.tar"), ({"out": "a.jpg"}, r"\.png"), ({"key": ("nope",)}, "nope")],
)
def test_wrong_requests_say_what_is_wanted(shard, change, told):
    options = {"shard": str(shard)} | change
    with pytest.raises(ValueError, match=told):
        main(Args(**options))
