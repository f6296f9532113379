"""Every layout as it was published, what is odd in it, and what is no such layout."""

import json
import os
import pickle

import pytest

from pipelines import storage
from pipelines.datasets.catalogue import DATASETS, LAYOUTS
from pipelines.datasets.consistency import compare
from pipelines.datasets.importing import hold_out, read_dataset
from tests import annotation_files
from tests.annotation_files import LAYOUTS as WRITERS


def captions_of(imported):
    told = {}
    for record in imported.annotations.records:
        told.setdefault(record.split, {})[record.video_id] = list(record.captions)
    return told


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_tells_what_its_files_hold(tmp_path, layout):
    name, write = WRITERS[layout]
    told = write(tmp_path)
    if DATASETS[name].protocol == "paragraph":
        told = {split: {video: [" ".join(texts)] for video, texts in part.items()} for split, part in told.items()}
    imported = read_dataset(name, str(tmp_path), layout=layout)
    assert captions_of(imported) == told
    assert [list(part) for part in captions_of(imported).values()] == [list(part) for part in told.values()]
    assert imported.num_videos == {split: len(part) for split, part in told.items()}
    assert imported.num_captions == {split: sum(map(len, part.values())) for split, part in told.items()}
    assert imported.annotations.problems == []
    assert {(record.start_s, record.end_s) for record in imported.annotations.records} == {(None, None)}


def test_every_layout_belongs_to_a_data_set():
    assert {layout for dataset in DATASETS.values() for layout in dataset.layouts} == set(LAYOUTS) == set(WRITERS)


def test_published_counts_are_met_by_files_of_that_size(tmp_path):
    published = DATASETS["msvd"].published
    counts = {split: count.videos or 0 for split, count in published.items()}
    annotation_files.msvd(tmp_path, train=counts["train"], val=counts["val"], test=counts["test"], captions=1)
    imported = read_dataset("msvd", str(tmp_path))
    assert imported.num_videos == counts
    found = compare(imported, records=imported.annotations.records, problems=[], num_unnamed=0)
    assert [split.note for split in found.splits] == ["", "", ""]


@pytest.mark.slow
def test_msrvtt_1k_at_full_size(tmp_path):
    annotation_files.msrvtt_jsfusion(tmp_path, train=9_000, test=1_000)
    imported = read_dataset("msrvtt-1k", str(tmp_path))
    assert imported.num_videos == {"train": 9_000, "test": 1_000}
    assert imported.num_captions == {"train": 180_000, "test": 1_000}
    found = compare(imported, records=imported.annotations.records, problems=[], num_unnamed=0)
    assert [(split.split, split.num_to_write, split.note) for split in found.splits] == [
        ("train", 8_500, "500 moved to val"),
        ("val", 500, "500 held out of train"),
        ("test", 1_000, ""),
    ]


def kinds(imported):
    return [(problem.kind, problem.video) for problem in imported.annotations.problems]


def edit(path, change):
    value = json.loads(path.read_text())
    path.write_text(json.dumps(change(value) or value))


def test_odd_captions_and_ids_are_told_and_equal_captions_kept(tmp_path):
    annotation_files.msrvtt_jsfusion(tmp_path, train=4, test=1, captions=2)

    def change(data):
        texts = {"video0": ["a man is talking", "a man is talking"], "video1": ["  ", "  two\n lines\t"], "video2": []}
        texts["video3"] = [None, 7]
        rows = [(video, text) for video, captions in texts.items() for text in captions]
        data["sentences"] = [{"sen_id": n, "video_id": v, "caption": text} for n, (v, text) in enumerate(rows)]

    edit(tmp_path / "MSRVTT_data.json", change)
    with open(tmp_path / "MSRVTT_train.9k.csv", "a") as file:
        file.write("video1\n\nvideo4\n")
    imported = read_dataset("msrvtt-1k", str(tmp_path))
    assert captions_of(imported)["train"] == {
        "video0": ["a man is talking"] * 2,
        "video1": ["two lines"],
        "video2": [],
        "video3": [],
        "video4": [],
    }
    assert sorted(kinds(imported)) == sorted(
        [
            ("empty_caption", "video1"),
            *(("empty_caption", "video3"), ("bad_caption", "video3"), ("duplicate_id", "video1")),
            *(("no_caption", "video2"), ("no_caption", "video3"), ("no_caption", "video4")),
            ("several_splits", "video4"),
        ]
    )


def test_a_marked_table_with_windows_lines_and_foreign_scripts(tmp_path):
    annotation_files.msrvtt_jsfusion(tmp_path, train=1, test=1)
    texts = ["שלום, עולם 🐈", "tab\tand “quotes”"]
    edit(tmp_path / "MSRVTT_data.json", lambda data: data["sentences"][0].update(caption=texts[0]))
    rows = f'key,vid_key,video_id,sentence\r\nret0,msr1,video1,"{texts[1]}"\r\n'
    (tmp_path / "MSRVTT_JSFUSION_test.csv").write_bytes(b"\xef\xbb\xbf" + rows.encode())
    told = captions_of(read_dataset("msrvtt-1k", str(tmp_path)))
    assert told["train"]["video0"][0] == texts[0]
    assert told["test"] == {"video1": ["tab and “quotes”"]}


def test_lsmdc_with_a_header_empty_sentences_and_no_quoting(tmp_path):
    annotation_files.lsmdc(tmp_path)
    path = tmp_path / "LSMDC16_annos_val.csv"
    header = "<CLIP_ID>\t<START_ALIGNED>\t<END_ALIGNED>\t<START_EXTRACTED>\t<END_EXTRACTED>\t<SENTENCE>\r\n"
    path.write_text(header + 'a_00.00.01.000\t1\t2\t1\t2\t"He runs, and says "no\r\nb\t1\t2\t1\t2\t\r\n\r\n')
    imported = read_dataset("lsmdc", str(tmp_path))
    assert captions_of(imported)["val"] == {"a_00.00.01.000": ['"He runs, and says "no'], "b": []}
    assert kinds(imported) == [("empty_caption", "b"), ("no_caption", "b")]
    path.write_text("a\tb\n")
    with pytest.raises(ValueError, match=r"got 2 columns on line 1 .* wanted 6, with tabs"):
        read_dataset("lsmdc", str(tmp_path))


def test_files_of_splits_with_names_of_their_own(tmp_path):
    annotation_files.jsonl(tmp_path)
    (tmp_path / "train.jsonl").rename(tmp_path / "train9k.jsonl")
    with pytest.raises(ValueError, match="--split-files"):
        read_dataset("captions", str(tmp_path), layout="jsonl", split_files={"train": "train.jsonl"})
    told = captions_of(read_dataset("captions", str(tmp_path), layout="jsonl", split_files={"train": "train9k.jsonl"}))
    assert list(told) == ["train"]
    imported = read_dataset(
        "captions", str(tmp_path), layout="jsonl", split_files={"train": "train9k.jsonl", "extra": "val.jsonl"}
    )
    assert kinds(imported) == [("unknown_split", "clip3")]
    with pytest.raises(ValueError, match="fixed names"):
        read_dataset("msvd", str(tmp_path), split_files={"train": "train9k.jsonl"})


@pytest.mark.parametrize(
    ("layout", "file", "content", "message"),
    [
        ("msrvtt-9k", "MSRVTT_data.json", "[]", "wanted an object with the lists 'videos' and 'sentences'"),
        (
            "msrvtt-9k",
            "MSRVTT_data.json",
            '{"sentences": [{"video_id": "a"}]}',
            "wanted objects with video_id and caption",
        ),
        ("msrvtt-9k", "MSRVTT_data.json", "{" * 100_000, "no sound JSON"),
        ("msrvtt-9k", "MSRVTT_data.json", "[" * 100_000, "no sound JSON"),
        ("msrvtt-9k", "MSRVTT_train.9k.csv", "id\nvideo0\n", "wanted 'video_id'"),
        (
            "msrvtt-9k",
            "MSRVTT_JSFUSION_test.csv",
            "video_id,sentence\nv,a,b\n",
            "wanted sentences with commas in quotes",
        ),
        ("msrvtt-full", "MSRVTT_data.json", '{"videos": [{"video_id": "a"}], "sentences": []}', "wanted objects with"),
        ("msvd", "raw-captions.pkl", "{}", "nothing of it was run"),
        ("vatex-lists", "ref_captions.json", '{"videos": [], "sentences": 3}', "wanted {video_id"),
        ("vatex-lists", "ref_captions.json", '{"a": ["x"], "a": ["y"]}', "the key 'a' twice"),
        ("didemo", "train_data.json", '{"video": 1, "description": 2}', "wanted a list of objects"),
        ("didemo", "train_data.json", '[{"video": "a"}]', "wanted a list of objects"),
        ("activitynet", "train_ids.json", '{"v_a": 1}', "wanted a list of ids"),
        ("activitynet", "train.json", '{"v_a": ["x"]}', "wanted an object with a list 'sentences'"),
        ("jsonl", "train.jsonl", '{"image": "a.mp4", "caption": "x"}', "wanted objects with 'clip_id' and 'text'"),
        ("jsonl", "train.jsonl", "{", "no sound JSON on line 1"),
        ("vindlu", "train.json", '[{"clip_id": "a", "text": "x"}]', "wanted objects with 'image' and 'caption'"),
        ("vindlu", "train.json", '{"image": "a", "caption": "x"}', "wanted a list of objects"),
    ],
)
def test_another_shape_is_refused_with_what_was_expected(tmp_path, layout, file, content, message):
    name, write = WRITERS[layout]
    write(tmp_path)
    (tmp_path / file).write_text(content)
    with pytest.raises(ValueError, match=r".") as refused:
        read_dataset(name, str(tmp_path), layout=layout)
    assert type(refused.value) is ValueError
    assert message in str(refused.value)
    assert file in str(refused.value)


def test_a_layout_is_declared_and_never_guessed(tmp_path):
    annotation_files.vatex_tables(tmp_path)
    with pytest.raises(ValueError, match=r"no train_list.txt.*holds VATEX_data.json.*vatex-lists wants train_list.txt"):
        read_dataset("vatex", str(tmp_path))
    assert read_dataset("vatex", str(tmp_path), layout="vatex-tables").annotations.records
    with pytest.raises(ValueError, match=r"wanted one of didemo .*jsonl"):
        read_dataset("didemo", str(tmp_path), layout="vatex-tables")
    with pytest.raises(ValueError, match=r"wanted one of msrvtt-1k, .*--captions takes your own table"):
        read_dataset("msrvtt", str(tmp_path))
    with pytest.raises(ValueError, match="got no files under"):
        read_dataset("msvd", str(tmp_path / "nowhere"))


def test_held_out_videos_depend_on_their_ids_alone(tmp_path):
    annotation_files.msrvtt_jsfusion(tmp_path, train=40, test=1, captions=1)
    records = read_dataset("msrvtt-1k", str(tmp_path), num_held_out=0).annotations.records
    chosen = {r.video_id for r in hold_out(records, 5) if r.split == "val"}
    assert len(chosen) == 5
    assert {r.video_id for r in hold_out(records[::-1], 5) if r.split == "val"} == chosen
    assert chosen < {r.video_id for r in hold_out(records, 6) if r.split == "val"}
    assert [r._replace(split="train") for r in hold_out(records, 5)][:40] == records[:40]
    imported = read_dataset("msrvtt-1k", str(tmp_path))
    assert (imported.num_held_out, imported.num_videos) == (4, {"train": 40, "test": 1})
    with pytest.raises(ValueError, match="of 40 training videos"):
        hold_out(records, 40)
    annotation_files.msvd(tmp_path)
    with pytest.raises(ValueError, match="have a validation split"):
        read_dataset("msvd", str(tmp_path), num_held_out=1)


def test_a_pickle_that_runs_code_is_refused_before_it_does(tmp_path):
    annotation_files.msvd(tmp_path)
    canary = tmp_path / "canary"

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(canary),)

    (tmp_path / "raw-captions.pkl").write_bytes(pickle.dumps({"a": [[Evil()]]}))
    with pytest.raises(ValueError, match=r"STACK_GLOBAL.*nothing of it was run"):
        read_dataset("msvd", str(tmp_path))
    assert not canary.exists()


def test_pickled_captions_of_another_shape_are_refused(tmp_path, monkeypatch):
    annotation_files.msvd(tmp_path)
    for value in ([], {"a": "text"}, {"a": ["a sentence"]}, {"a": [[["deep"]]]}, {7: [["x"]]}, {"a": [[True]]}):
        (tmp_path / "raw-captions.pkl").write_bytes(pickle.dumps(value))
        with pytest.raises(ValueError, match=r"wanted \{video_id: \[\[word"):
            read_dataset("msvd", str(tmp_path))
    monkeypatch.setattr("pipelines.datasets.msvd.MAX_WORDS", 9_000)
    (tmp_path / "raw-captions.pkl").write_bytes(pickle.dumps({"a": [["word"] * 1_000] * 10}))
    with pytest.raises(ValueError, match="more than 9000 words"):
        read_dataset("msvd", str(tmp_path))


def test_annotations_in_a_store_and_files_that_are_too_large(tmp_path, monkeypatch):
    annotation_files.msrvtt_full(tmp_path)
    storage.write_bytes("memory://annotations/MSRVTT_data.json", (tmp_path / "MSRVTT_data.json").read_bytes())
    assert len(read_dataset("msrvtt-3k", "memory://annotations").annotations.records) == 9
    monkeypatch.setattr("pipelines.datasets.folder.MAX_BYTES", 100)
    with pytest.raises(ValueError, match="wanted at most 100; is it an annotation file"):
        read_dataset("msrvtt-3k", str(tmp_path))
