"""The files of parts that a corpus folder holds: which are there, which are missing, and what they count.

Of a part a few numbers are kept, never its file name or its count as objects: a corpus may have millions.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from pipelines import storage
from pipelines.ordered import map_on_threads
from pipelines.part_plan import Part, Parts
from pipelines.parts import PartCount, read_table

NUM_READERS = 16
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
    """Parts of the plan that the folder doesn't hold yet, in order.

    Raises:
        ValueError: the folder holds parts that are not of this plan.
    """
    is_there, foreign = find_parts(url, parts.names)
    if foreign.count:
        raise ValueError(
            f"{url} holds {foreign.count} parts that are not of this corpus (such as {foreign.first}); "
            "give another output folder, or delete that one"
        )
    return parts.where(~is_there)


def find_parts(url: str, names: np.ndarray) -> tuple[np.ndarray, Examples]:
    """Which of the parts with these names (bytes [parts]) a folder holds, bool [parts], and what others it holds."""
    is_there, foreign = np.zeros(len(names), bool), Examples()
    order = np.argsort(names)
    found = (file.rsplit("/", 1)[-1].removesuffix(".parquet") for file in part_files(url))
    while page := list(itertools.islice(found, _LISTED_AT_ONCE)):
        name = np.array([text.encode() for text in page])
        low, high = (np.searchsorted(names, name, side=side, sorter=order) for side in ("left", "right"))
        is_ours = low < high
        is_there[order[low[is_ours]]] = True
        foreign.add([text for text, ours in zip(page, is_ours, strict=True) if not ours])
    return is_there, foreign


def part_files(url: str) -> Iterator[str]:
    """URLs of all parts that a folder holds, committed or not, in no order."""
    files = (file for file, _ in storage.iter_stamps(storage.join(url, "parts")))
    return (file for file in files if file.endswith(".parquet"))


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
        place = count.start // self._parts.part_rows
        assert self._parts[place].name == count.name, f"{count} is not of these parts"
        if self.num_embedded[place] == _UNKNOWN:
            self.num_embedded[place] = count.num_embedded
            self.rejected.update(count.rejected)

    @property
    def unknown(self) -> Parts:
        """The parts that were not counted."""
        return self._parts.where(self.num_embedded == _UNKNOWN)
