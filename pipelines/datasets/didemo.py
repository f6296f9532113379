"""DiDeMo (Hendricks et al., 2017): descriptions of moments, joined to a paragraph a video."""

from collections.abc import Iterator

from pipelines.datasets.entries import Entry, gather, listed
from pipelines.datasets.folder import Folder, kind_of

SPLITS = ("train", "val", "test")


def read(folder: Folder) -> Iterator[Entry]:
    """``{split}_list.txt``, names with their suffix; ``{split}_data.json`` = ``[{video, description, times}, …]``.

    The descriptions of a video stand in the order of the file, as CLIP4Clip joins them. The whole video is the sample:
    ``times`` are those of the moments.
    """
    folder.require(*(f"{split}_{what}" for split in SPLITS for what in ("list.txt", "data.json")))
    for split in SPLITS:
        name = f"{split}_data.json"
        told = folder.json(name)
        wanted = "a list of objects with 'video' and 'description'"
        if not isinstance(told, list):
            raise folder.refuse(name, kind_of(told), wanted)
        for moment in told:
            if not isinstance(moment, dict) or not {"video", "description"} <= moment.keys():
                raise folder.refuse(name, kind_of(moment), wanted)
        captions = gather((str(moment["video"]).strip(), [moment["description"]]) for moment in told)
        yield from listed(split, folder.lines(f"{split}_list.txt"), captions)
