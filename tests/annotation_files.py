"""Annotation files of benchmarks, made in their exact public layouts, and what they tell, for tests and the docs.

Each function writes a folder and returns ``{split: {video_id: [caption, …]}}`` as the files have it, before paragraphs
are joined: the oracle of the importers.
"""

import csv
import json
import pickle
from collections.abc import Callable
from pathlib import Path

Told = dict[str, dict[str, list[str]]]


def sentence(video_id: str, number: int) -> str:
    return f"caption {number} of {video_id}"


def msrvtt_data(folder: Path, *, splits: dict[str, int], captions: int) -> dict[str, list[str]]:
    """``MSRVTT_data.json`` with ``splits`` videos each; ids count on over the splits."""
    videos, sentences, told = [], [], {}
    names = [split for split, count in splits.items() for _ in range(count)]
    for number, split in enumerate(names):
        video_id = f"video{number}"
        url = f"https://www.youtube.com/watch?v={number:011d}"
        times = {"start time": 10.5, "end time": 22.0}
        videos.append(
            {"category": number % 20, "url": url, "video_id": video_id, **times, "split": split, "id": number}
        )
        told[video_id] = [sentence(video_id, caption) for caption in range(captions)]
    for video_id, texts in told.items():
        sentences += [{"caption": text, "video_id": video_id, "sen_id": len(sentences)} for text in texts]
    info = {"contributor": "Microsoft Research", "data_created": "2016-04-14 14:30:20", "version": "1.0"}
    (folder / "MSRVTT_data.json").write_text(json.dumps({"info": info, "videos": videos, "sentences": sentences}))
    return told


def msrvtt_jsfusion(folder: Path, *, train: int = 6, test: int = 3, captions: int = 20, name: str = "9k") -> Told:
    """The CSVs of a split whose test are JSFusion's pairs, ``MSRVTT_data.json`` beside them."""
    told = msrvtt_data(folder, splits={"train": train + test}, captions=captions)
    ids = list(told)
    (folder / f"MSRVTT_train.{name}.csv").write_text("video_id\n" + "".join(f"{video}\n" for video in ids[:train]))
    with open(folder / "MSRVTT_JSFUSION_test.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["key", "vid_key", "video_id", "sentence"])
        pairs = {video: [f'the pair of {video}, with "quotes", and a comma'] for video in ids[train:]}
        table.writerows(
            [f"ret{n}", video.replace("video", "msr"), video, *pairs[video]] for n, video in enumerate(pairs)
        )
    return {"train": {video: told[video] for video in ids[:train]}, "test": pairs}


def msrvtt_full(folder: Path, *, train: int = 4, val: int = 2, test: int = 3, captions: int = 20) -> Told:
    told = msrvtt_data(folder, splits={"train": train, "validate": val, "test": test}, captions=captions)
    ids = iter(told)
    return {
        split: {video: told[video] for video in [next(ids) for _ in range(count)]}
        for split, count in (("train", train), ("val", val), ("test", test))
    }


def msvd(folder: Path, *, train: int = 3, val: int = 1, test: int = 2, captions: int = 4, protocol: int = 4) -> Told:
    told = _numbered({"train": train, "val": val, "test": test}, captions, "-4wsuPCjDBc_{}_15")
    for split, videos in told.items():
        (folder / f"{split}_list.txt").write_text("".join(f"{video}\n" for video in videos))
    words = {video: [text.split(" ") for text in texts] for videos in told.values() for video, texts in videos.items()}
    (folder / "raw-captions.pkl").write_bytes(pickle.dumps(words, protocol=protocol))
    return told


def vatex_lists(folder: Path, *, train: int = 3, test: int = 2, captions: int = 10) -> Told:
    told = _numbered({"train": train, "test": test}, captions, "Ptf_2VRj-V0_{:06d}_000132")
    for split, videos in told.items():
        (folder / f"{split}_list.txt").write_text("\n".join(videos))
    every = {video: texts for videos in told.values() for video, texts in videos.items()}
    (folder / "ref_captions.json").write_text(json.dumps(every))
    return told


def vatex_tables(folder: Path, *, train: int = 3, val: int = 1, test: int = 2, captions: int = 10) -> Told:
    told = _numbered({"train": train, "val": val, "test": test}, captions, "Ptf_2VRj-V0_{:06d}_000132")
    videos = [{"video_id": video, "split": split} for split in told for video in told[split]]
    rows = [(video, text) for part in told.values() for video, texts in part.items() for text in texts]
    sentences = [{"sen_id": n, "video_id": video, "caption": text} for n, (video, text) in enumerate(rows)]
    (folder / "VATEX_data.json").write_text(json.dumps({"info": {}, "videos": videos, "sentences": sentences}))
    for split, part in told.items():
        (folder / f"VATEX_{split}.csv").write_text("video_id\n" + "".join(f"{video}\n" for video in part))
    return told


def didemo(folder: Path, *, train: int = 3, val: int = 1, test: int = 2, captions: int = 4) -> Told:
    told = _numbered({"train": train, "val": val, "test": test}, captions, "54322086@N00_{}_274c77d26a.avi")
    for split, videos in told.items():
        (folder / f"{split}_list.txt").write_text("".join(f"{video}\n" for video in videos))
        moments = [
            {
                "num_segments": 6,
                "description": texts[n],
                "times": [[n, n], [n, n + 1]],
                "video": video,
                "annotation_id": n,
            }
            for n in range(captions)
            for video, texts in videos.items()
        ]
        (folder / f"{split}_data.json").write_text(json.dumps(moments))
    return told


def activitynet(folder: Path, *, train: int = 4, test: int = 2, captions: int = 3) -> Told:
    told = _numbered({"train": train, "test": test}, captions, "v_-{:010d}")
    for split, ids, name in (("train", "train_ids.json", "train.json"), ("test", "val_ids.json", "val_1.json")):
        (folder / ids).write_text(json.dumps(list(told[split])))
        videos = {
            video: {
                "duration": 82.73,
                "timestamps": [[float(n), n + 9.5] for n in range(captions)],
                "sentences": [f" {text}" for text in texts],
            }
            for video, texts in told[split].items()
        }
        (folder / name).write_text(json.dumps(videos))
    return told


def lsmdc(folder: Path, *, train: int = 3, val: int = 1, test: int = 2) -> Told:
    """The first segment of the training split has two rows."""
    name = "0001_American_Beauty_00.{:02d}.51.926-00.{:02d}.54.129"
    told: Told = {}
    for split, file, count in (
        ("train", "LSMDC16_annos_training.csv", train),
        ("val", "LSMDC16_annos_val.csv", val),
        ("test", "LSMDC16_challenge_1000_publictect.csv", test),
    ):
        offset = sum(len(part) for part in told.values())
        clips = [name.format(number, number) for number in range(offset, offset + count)]
        told[split] = {clip: [f'SOMEONE says "{clip}.'] for clip in clips}
        if split == "train":
            told[split][clips[0]].append("SOMEONE smiles.")
        rows = [(clip, text) for clip, texts in told[split].items() for text in texts]
        times = "00.00.51.926\t00.00.54.129\t00.00.51.925\t00.00.54.128"
        (folder / file).write_text("".join(f"{clip}\t{times}\t{text}\n" for clip, text in rows))
    return told


def jsonl(folder: Path, *, train: int = 3, val: int = 1, test: int = 2, captions: int = 5) -> Told:
    told = _numbered({"train": train, "val": val, "test": test}, captions, "clip{}")
    for split, videos in told.items():
        for video in videos if split == "test" else ():
            videos[video] = videos[video][:1]
        rows = [{"clip_id": video, "text": texts if split != "test" else texts[0]} for video, texts in videos.items()]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return told


def vindlu(folder: Path, *, train: int = 3, test: int = 2, captions: int = 5) -> Told:
    """A row for each caption in training, a list of captions in the test."""
    told = _numbered({"train": train, "test": test}, captions, "clip{}")
    rows = [
        {"image": f"clips/{video}.mp4", "caption": text} for video, texts in told["train"].items() for text in texts
    ]
    (folder / "train.json").write_text(json.dumps(rows))
    rows = [{"image": f"clips/{video}.mp4", "caption": texts} for video, texts in told["test"].items()]
    (folder / "test.json").write_text(json.dumps(rows))
    return told


LAYOUTS: dict[str, tuple[str, Callable[..., Told]]] = {
    "msrvtt-9k": ("msrvtt-1k", msrvtt_jsfusion),
    "msrvtt-7k": ("msrvtt-7k", lambda folder, **counts: msrvtt_jsfusion(folder, name="7k", **counts)),
    "msrvtt-full": ("msrvtt-3k", msrvtt_full),
    "msvd": ("msvd", msvd),
    "vatex-lists": ("vatex", vatex_lists),
    "vatex-tables": ("vatex", vatex_tables),
    "didemo": ("didemo", didemo),
    "activitynet": ("activitynet", activitynet),
    "lsmdc": ("lsmdc", lsmdc),
    "jsonl": ("captions", jsonl),
    "vindlu": ("paragraphs", vindlu),
}
"""Of each layout a data set that comes in it, and what writes the layout."""


def _numbered(splits: dict[str, int], captions: int, name: str) -> Told:
    told: Told = {}
    for split, count in splits.items():
        offset = sum(len(part) for part in told.values())
        ids = [name.format(number) for number in range(offset, offset + count)]
        told[split] = {video: [sentence(video, number) for number in range(captions)] for video in ids}
    return told
