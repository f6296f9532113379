"""LSMDC (Rohrbach et al., 2015): tables without a header, one row a segment of a film, which is a file of its own."""

from collections.abc import Iterator

from pipelines.datasets.entries import Entry, gather
from pipelines.datasets.folder import Folder

FILES = {
    "train": "LSMDC16_annos_training.csv",
    "val": "LSMDC16_annos_val.csv",
    "test": "LSMDC16_challenge_1000_publictect.csv",
}
NUM_COLUMNS = 6
"""clip_id, start_aligned, end_aligned, start_extracted, end_extracted, sentence."""


def read(folder: Folder) -> Iterator[Entry]:
    """Tabs between the columns, in spite of the suffix, and no quoting.

    The times are those of the segment in its film; the file of a segment holds nothing else, so they are not used. A
    ``clip_id`` may have several rows: several captions.
    """
    folder.require(*FILES.values())
    for split, name in FILES.items():
        for clip_id, sentences in gather(_rows(folder, name)).items():
            yield Entry(split, clip_id, clip_id, sentences)


def _rows(folder: Folder, name: str) -> Iterator[tuple[str, list[str]]]:
    for number, line in enumerate(folder.text(name).split("\n"), start=1):
        fields = line.rstrip("\r").split("\t")
        if not line.strip() or (number == 1 and fields[0].strip("<> ").lower() == "clip_id"):
            continue
        if len(fields) != NUM_COLUMNS:
            raise folder.refuse(name, f"{len(fields)} columns on line {number}", f"{NUM_COLUMNS}, with tabs between")
        yield fields[0].strip(), [fields[-1]]
