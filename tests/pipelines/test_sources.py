import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import storage
from pipelines.annotations import Columns
from pipelines.limits import VideoLimits
from pipelines.sources import find_sources, suffix_of


@pytest.fixture
def folder(tmp_path):
    for name in ("day/a.mp4", "b.webm", "c.jpg", "day/note.txt"):
        (tmp_path / "videos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "videos" / name).write_bytes(name.encode())
    return tmp_path / "videos"


def told(found):
    return [(source.record.path, source.url, source.num_bytes, source.record.captions) for source in found.sources]


def write(path, text):
    path.write_text(text)
    return str(path)


def test_a_folder_and_a_table(tmp_path, folder):
    table = write(tmp_path / "t.csv", "video,caption\nday/a,x\nb.webm,y\nd.mp4,z\nday/note.txt,v\n")
    found = find_sources(str(folder), table)
    assert told(found) == [
        ("day/a.mp4", f"{folder}/day/a.mp4", 9, ("x",)),
        ("b.webm", f"{folder}/b.webm", 6, ("y",)),
    ]
    assert sorted((problem.kind, problem.video) for problem in found.problems) == [
        ("bad_suffix", "day/note.txt"),
        ("missing_video", "d.mp4"),
    ]
    assert found.num_unnamed == 1


def test_a_folder_alone_gives_every_video_without_captions(folder):
    found = find_sources(str(folder), "")
    assert [(path, captions) for path, _, _, captions in told(found)] == [
        ("b.webm", ()),
        ("c.jpg", ()),
        ("day/a.mp4", ()),
    ]
    assert [source.record.video_id for source in found.sources] == ["b", "c", "a"]


def write_list(tmp_path, suffix, locations):
    path = tmp_path / f"list{suffix}"
    if suffix == ".txt":
        path.write_text("\n".join(["", *locations]) + "\n")
    elif suffix == ".csv":
        path.write_text("number,place\n" + "".join(f"{n},{name}\n" for n, name in enumerate(locations)))
    elif suffix == ".jsonl":
        path.write_text("".join(json.dumps({"place": name}) + "\n" for name in locations))
    else:
        pq.write_table(pa.table({"place": locations}), path)
    return str(path)


@pytest.mark.parametrize("suffix", [".txt", ".csv", ".jsonl", ".parquet"])
def test_a_list_of_locations_and_a_table_meet_by_the_end_of_the_name(tmp_path, folder, suffix):
    storage.write_bytes("memory://sources/far/a.mp4", b"far away")
    locations = ["memory://sources/far/a.mp4", f"{folder}/day/a.mp4", f"{folder}/b.webm", f"{folder}/gone.mp4"]
    videos = write_list(tmp_path, suffix, locations)
    rows = "day/a.mp4,x\nfar/a,y\na.mp4,z\nb,v\ngone,w\n" + f"{folder}/b.webm,u\n"
    found = find_sources(videos, write(tmp_path / "t.csv", f"video,caption\n{rows}"), list_column="place")
    assert [(url, captions) for _, url, _, captions in told(found)] == [
        (f"{folder}/day/a.mp4", ("x",)),
        ("memory://sources/far/a.mp4", ("y",)),
        (f"{folder}/b.webm", ("v",)),
        (f"{folder}/b.webm", ("u",)),
    ]
    assert [(problem.kind, problem.video) for problem in found.problems] == [
        ("unclear_video", "a.mp4"),
        ("missing_video", f"{folder}/gone.mp4"),
    ]


def test_a_list_alone_and_a_table_that_holds_the_locations(tmp_path, folder, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = find_sources(write_list(tmp_path, ".txt", ["videos/b.webm", "videos/gone.mp4"]), "")
    assert told(found) == [("videos/b.webm", f"{folder}/b.webm", 6, ())]
    assert [(problem.kind, problem.video) for problem in found.problems] == [("missing_video", "videos/gone.mp4")]

    table = write(tmp_path / "t.csv", f"where,text\nvideos/b.webm,x\n{folder}/day/a.mp4,y\nhttp://host/a.mp4,z\n")
    found = find_sources("", table, columns=Columns(video="where", caption="text"))
    assert [(url, captions) for _, url, _, captions in told(found)] == [
        (f"{folder}/b.webm", ("x",)),
        (f"{folder}/day/a.mp4", ("y",)),
    ]
    assert [(problem.kind, problem.video) for problem in found.problems] == [("bad_location", "http://host/a.mp4")]


def test_a_folder_of_videos_keeps_its_rows_inside(tmp_path, folder):
    table = write(tmp_path / "t.csv", f"video,caption\n{folder}/b.webm,x\n../up.mp4,y\nb.webm,z\n")
    found = find_sources(str(folder), table)
    assert len(found.sources) == 1
    assert [problem.kind for problem in found.problems] == ["outside_folder"] * 2


def test_what_is_too_large_is_told_before_it_is_read(folder):
    found = find_sources(str(folder), "", limits=VideoLimits(max_bytes=6))
    assert [problem.video for problem in found.problems] == ["day/a.mp4"]
    assert found.problems[0].kind == "too_large"


def test_nothing_to_write_is_refused(tmp_path, folder):
    with pytest.raises(ValueError, match="no video or image for any record"):
        find_sources(str(folder), write(tmp_path / "t.csv", "video,caption\ngone.mp4,x\n"))
    with pytest.raises(ValueError, match="neither videos nor captions"):
        find_sources("", "")
    with pytest.raises(ValueError, match="wanted a path"):
        find_sources(write_list(tmp_path, ".txt", ["http://host/a.mp4"]), "")


@pytest.mark.parametrize(
    ("path", "suffix"),
    [("a.MP4", "mp4"), ("s3://b.c/d/e.webm", "webm"), ("a", ""), (".mp4", ""), ("a.b/c", ""), ("a.b.jpg", "jpg")],
)
def test_suffixes(path, suffix):
    assert suffix_of(path) == suffix
