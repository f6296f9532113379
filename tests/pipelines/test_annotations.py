import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.annotations import PROBLEMS, Columns, Record, match_videos, read_caption_table

ROWS = [
    {"video": "a.mp4", "caption": 'he said "hi", twice', "video_id": "A", "split": "train"},
    {"video": "b.mp4", "caption": "two 🐈 on a mat", "video_id": "", "split": "test"},
    {"video": "a.mp4", "caption": "a second\ncaption", "video_id": "A", "split": "train"},
]
RECORDS = [
    Record("a.mp4", "A", "train", ('he said "hi", twice', "a second caption"), None, None),
    Record("b.mp4", "b", "test", ("two 🐈 on a mat",), None, None),
]


def write_table(folder, suffix, rows=ROWS):
    path = folder / f"table{suffix}"
    if suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    elif suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        delimiter = {".csv": ",", ".tsv": "\t"}[suffix]
        quoted = [['"' + str(value).replace('"', '""') + '"' for value in row.values()] for row in rows]
        lines = [delimiter.join(rows[0])] + [delimiter.join(fields) for fields in quoted]
        path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    return str(path)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_all_formats_tell_the_same(tmp_path, suffix):
    table = read_caption_table(write_table(tmp_path, suffix))
    assert table.records == RECORDS
    assert table.problems == []


def read_text(folder, text, name="t.csv", **columns):
    (folder / name).write_text(text)
    return read_caption_table(str(folder / name), columns=Columns(**columns))


def test_segments_of_one_video_are_samples_of_their_own(tmp_path):
    table = read_text(tmp_path, "video;caption;start;end\na.mp4;x;0;2.5\na.mp4;y;2.5;\na.mp4;z;0;2.5\n")
    assert table.records == [
        Record("a.mp4", "a", "all", ("x", "z"), 0.0, 2.5),
        Record("a.mp4", "a", "all", ("y",), 2.5, None),
    ]


def test_lists_of_captions_and_other_column_names(tmp_path):
    table = read_text(tmp_path, '{"clip": "d/a.mp4", "text": ["x", "y"]}', "t.jsonl", video="clip", caption="text")
    assert table.records == [Record("d/a.mp4", "a", "all", ("x", "y"), None, None)]


@pytest.mark.parametrize(
    ("line", "kind", "kept"),
    [
        (",x,,,", "no_video_name", False),
        ("../a.mp4,x,,,", "outside_folder", False),
        ("/etc/a.mp4,x,,,", "outside_folder", False),
        ("b.mp4,x,zero,,", "bad_number", False),
        ("b.mp4,x,nan,,", "bad_number", False),
        ("b.mp4,x,-1,,", "bad_number", False),
        ("b.mp4,x,5,5,", "bad_segment", False),
        ("b.mp4,x,,,../up", "bad_split", False),
        ("b.mp4,x,,,,more", "extra_fields", True),
        ("b.mp4,  ,,,", "empty_caption", True),
        ("a.mp4,sound,,,", "duplicate_row", True),
        ("a.mp4,sound,,,val", "several_splits", True),
    ],
)
def test_every_oddity_is_told(tmp_path, line, kind, kept):
    assert kind in PROBLEMS
    table = read_text(tmp_path, f"video,caption,start,end,split\na.mp4,sound,,,\n{line}\n")
    assert [problem.kind for problem in table.problems] == [kind]
    assert table.problems[0].row in (0, 2)
    assert table.records[0].captions == ("sound",)
    assert (len(table.records) == 2) == (kept and kind != "duplicate_row")


def test_two_videos_of_one_id_are_told_and_kept(tmp_path):
    table = read_text(tmp_path, "video,caption,video_id\na.mp4,x,A\nb.mp4,y,A\na.mp4,z,A\nd/c.mp4,v,\ne/c.mp4,w,\n")
    assert [(problem.kind, problem.row, problem.video) for problem in table.problems] == [("shared_id", 2, "b.mp4")]
    assert [record.path for record in table.records] == ["a.mp4", "b.mp4", "d/c.mp4", "e/c.mp4"]


def test_every_row_of_a_wild_table_is_imported_or_told(tmp_path):
    rows = [
        ("a.mp4", 'quotes "inside", and a comma', "train"),
        ("a.mp4", "a tab\tand a\nnew line", "train"),
        ("b.mp4", "כלב רץ בגינה 🐕‍🦺", "train"),
        ("b.mp4", "", "test"),
        ("../c.mp4", "outside", "test"),
        ("b.mp4", "כלב רץ בגינה 🐕‍🦺", "train"),
        ("", "no name", "test"),
    ]
    quoted = "".join(",".join('"' + field.replace('"', '""') + '"' for field in row) + "\r\n" for row in rows)
    (tmp_path / "t.csv").write_bytes(b"\xef\xbb\xbf" + f"video,caption,split\r\n{quoted}".encode())
    table = read_caption_table(str(tmp_path / "t.csv"))
    assert [(record.path, record.split, record.captions) for record in table.records] == [
        ("a.mp4", "train", ('quotes "inside", and a comma', "a tab and a new line")),
        ("b.mp4", "train", ("כלב רץ בגינה 🐕‍🦺",)),
        ("b.mp4", "test", ()),
    ]
    assert [(problem.kind, problem.row) for problem in table.problems] == [
        ("empty_caption", 4),
        ("outside_folder", 5),
        ("duplicate_row", 6),
        ("no_video_name", 7),
        ("several_splits", 0),
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"file,caption\na,b\n", "wanted 'video'"),
        ("t.csv", b'video,caption\na,"open\n', "no sound .csv"),
        ("t.csv", b"video,caption\na,\xff\xfe\n", "UTF-8"),
        ("t.jsonl", b"{", "no sound .jsonl"),
        ("t.jsonl", b"[1]", "one object a line"),
        ("t.parquet", b"PAR1", "no sound .parquet"),
        ("t.xlsx", b"", "wanted one of"),
    ],
)
def test_unreadable_tables_say_why(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_caption_table(str(tmp_path / name))


def test_a_missing_table_says_so(tmp_path):
    with pytest.raises(ValueError, match="no table"):
        read_caption_table(str(tmp_path / "t.csv"))


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["a.jpg", "a.mp4", "a.json"], ["a.mp4"]),
        (["a.PNG", "a.txt"], ["a.PNG"]),
        (["a.jpg", "a.png"], []),
        (["a.mkv", "a.mp4", "a.jpg"], []),
        (["a.flv"], ["a.flv"]),
    ],
)
def test_a_name_without_suffix_means_the_video_or_the_image(names, found):
    matched, problems = match_videos([Record("a", "a", "all", (), None, None)], names)
    assert [record.path for record in matched] == found
    assert [problem.kind for problem in problems] == ([] if found else ["unclear_video"])
    exact, _ = match_videos([Record(names[0], "a", "all", (), None, None)], names)
    assert [record.path for record in exact] == names[:1]


@given(
    names=st.lists(st.sampled_from(["a.mp4", "a.mkv", "b.mp4", "d/c.webm"]), unique=True),
    asked=st.lists(st.sampled_from(["a", "a.mp4", "b", "b.mp4", "d/c", "c", "e.mp4"])),
)
def test_every_record_is_matched_or_told(names, asked):
    matched, problems = match_videos([Record(path, path, "all", (), None, None) for path in asked], names)
    assert len(matched) + len(problems) == len(asked)
    assert all(record.path in names for record in matched)
    for path in asked:
        fits = [name for name in names if path in (name, name.rpartition(".")[0])]
        assert (path in [record.video_id for record in matched]) == (len(fits) == 1 or path in names)
