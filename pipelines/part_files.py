"""The files of parts that a corpus folder holds: which are there, which are missing, and what they count.

Of a part a few numbers are kept, never its file name or its count as objects: a corpus may have millions.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np

from pipelines import storage
from pipelines.ordered import map_on_threads
from pipelines.part_plan import Part, Parts
from pipelines.parts import PartCount, read_table

NUM_READERS = 16
Folder = Literal["parts", "quarantine"]
_LISTED_AT_ONCE = 10_000
_UNKNOWN = -1


class Examples:
    """How many there are of a kind, and the first one of them."""

    def __init__(self) -> None:
        self.count, self.first = 0, ""

    def add(self, found: Sequence[str]) -> None:
        if found:
            self.first = self.first or found[0]
            self.count += len(found)

    def told(self, what: str) -> str:
        return f"{self.count} {what} (first: {self.first})"


def missing_parts(url: str, parts: Parts) -> Parts:
    """Parts of the plan that the folder doesn't hold yet, in order."""
    return parts.where(~find_parts(url, parts.names)[0])


def find_parts(url: str, names: np.ndarray) -> tuple[np.ndarray, Examples]:
    """Which of the parts with these names (bytes [parts]) a folder holds, bool [parts], and what others it holds."""
    is_there, foreign = np.zeros(len(names), bool), Examples()
    for files, place in _placed(url, names, folder="parts"):
        is_there[place[place >= 0]] = True
        foreign.add([_name_of(file) for file, at in zip(files, place, strict=True) if at < 0])
    return is_there, foreign


def part_files(url: str, *, folder: Folder = "parts") -> Iterator[str]:
    """URLs of the files of all parts that a corpus folder holds, committed or not, in no order."""
    files = (file for file, _ in storage.iter_stamps(storage.join(url, folder)))
    return (file for file in files if file.endswith(".parquet"))


def remove_parts(url: str, *, keep: np.ndarray) -> None:
    """Delete the files of all parts but those with these names (bytes [parts]). A part goes before its quarantine."""
    for folder in get_args(Folder):
        gone = [
            file
            for files, place in _placed(url, keep, folder=folder)
            for file, at in zip(files, place, strict=True)
            if at < 0
        ]
        for _ in map_on_threads(storage.remove, gone, num_threads=NUM_READERS):
            pass


def _placed(url: str, names: np.ndarray, *, folder: Folder) -> Iterator[tuple[list[str], np.ndarray]]:
    """The files of a folder page by page, with their places among ``names``: -1 for others."""
    order, files = np.argsort(names), part_files(url, folder=folder)
    while page := list(itertools.islice(files, _LISTED_AT_ONCE)):
        name = np.array([_name_of(file).encode() for file in page])
        low, high = (np.searchsorted(names, name, side=side, sorter=order) for side in ("left", "right"))
        place = np.full(len(page), -1)
        place[low < high] = order[low[low < high]]
        yield page, place


def _name_of(file: str) -> str:
    return file.rsplit("/", 1)[-1].removesuffix(".parquet")


def count_part(url: str, part: Part) -> PartCount:
    """Count a written part by its quarantine file, which is always there before the part is."""
    reasons = read_table(part.quarantine_url(url), columns=["reason"]).column("reason").to_pylist()
    return PartCount(name=part.name, start=part.start, num_embedded=len(part) - len(reasons), rejected=Counter(reasons))


def count_parts(url: str, parts: Parts) -> Iterator[PartCount]:
    """Count written parts, in order."""
    return map_on_threads(lambda part: count_part(url, part), parts, num_threads=NUM_READERS)


class Tally:
    """What became of the samples of all parts of a corpus: a number for each part, and the reasons in all."""

    def __init__(self, parts: Parts, counts: Iterable[PartCount] = ()):
        self._parts = parts
        self.num_embedded = np.full(len(parts), _UNKNOWN, np.int64)
        self.rejected: Counter[str] = Counter()
        for count in counts:
            self.add(count)

    def add(self, count: PartCount) -> None:
        """Take in the count of a part; one that is known already changes nothing."""
        place = self._parts.place(count.start)
        assert self._parts.names[place] == count.name.encode(), f"{count} is not of these parts"
        if self.num_embedded[place] == _UNKNOWN:
            self.num_embedded[place] = count.num_embedded
            self.rejected.update(count.rejected)

    def add_committed(self, meta: Mapping[str, Any]) -> None:
        """Take in all parts of an earlier commit at once, if these parts hold them all and none was counted yet."""
        order = np.argsort(self._parts.names)
        names = np.array(meta["parts"], self._parts.names.dtype)
        place = np.searchsorted(self._parts.names, names, sorter=order)
        place = order[np.minimum(place, len(order) - 1)] if len(order) else place
        if not len(order) or (self._parts.names[place] != names).any() or (self.num_embedded[place] != _UNKNOWN).any():
            return
        self.num_embedded[place] = meta["part_embedded"]
        self.rejected.update(meta["rejected"])

    @property
    def unknown(self) -> Parts:
        """The parts that were not counted."""
        return self._parts.where(self.num_embedded == _UNKNOWN)
