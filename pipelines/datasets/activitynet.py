"""ActivityNet Captions (Krishna et al., 2017): sentences of events, joined to a paragraph a video; test is val_1."""

from collections.abc import Iterator

from pipelines.datasets.entries import Entry, gather, listed
from pipelines.datasets.folder import Folder, kind_of

FILES = {"train": ("train_ids.json", "train.json"), "test": ("val_ids.json", "val_1.json")}
PREFIX = "v_"


def read(folder: Folder) -> Iterator[Entry]:
    """Lists of ids ``v_xxx`` in ``{train,val}_ids.json``; ``train.json``, ``val_1.json`` = ``{v_xxx: {sentences}}``.

    The file of ``v_xxx`` is called ``xxx``; ``other_names`` has the other name.
    """
    folder.require(*(name for names in FILES.values() for name in names))
    for split, (ids, captions) in FILES.items():
        video_ids, told = folder.json(ids), folder.json(captions)
        if not isinstance(video_ids, list) or not all(isinstance(video_id, str) for video_id in video_ids):
            raise folder.refuse(ids, kind_of(video_ids), "a list of ids such as v_QOlSCBRmfWY")
        if not isinstance(told, dict):
            raise folder.refuse(captions, kind_of(told), "{v_xxx: {duration, sentences, timestamps}}")
        for video_id, video in told.items():
            if not isinstance(video, dict) or not isinstance(video.get("sentences"), list):
                raise folder.refuse(captions, f"{kind_of(video)} for {video_id}", "an object with a list 'sentences'")
        sentences = gather((video_id.strip(), video["sentences"]) for video_id, video in told.items())
        stripped = (video_id.strip() for video_id in video_ids)
        yield from listed(split, stripped, sentences, name_of=lambda video_id: video_id.removeprefix(PREFIX))


def other_names(name: str) -> Iterator[str]:
    """Many folders keep the prefix in the names of files."""
    yield PREFIX + name
