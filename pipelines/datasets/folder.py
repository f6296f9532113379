"""A folder of annotation files from outside: read with limits, and refused with what was expected."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from pipelines import storage
from pipelines.tables import decode_text, read_rows

MAX_BYTES = 1 << 30
"""The largest file of the benchmarks has some 60 MB."""


class Folder:
    """The files of a folder or URL, read as ``layout`` wants them.

    ``split_files`` names the file of each split, for layouts without fixed names.
    """

    def __init__(self, url: str, *, layout: str, wanted: str, split_files: Mapping[str, str] | None = None):
        self.url, self.layout, self.wanted = url, layout, wanted
        self.split_files = dict(split_files or {})
        self._values: dict[str, Any] = {}
        self.names = sorted(storage.relative(found, url) for found in storage.list_files(url))
        if not self.names:
            raise ValueError(f"got no files under {url}, wanted {wanted} (layout {layout})")

    def require(self, *names: str) -> None:
        """Raise ValueError unless all of the files are there."""
        if missing := [name for name in names if name not in self.names]:
            self._refuse(f"no {' and no '.join(missing)}")

    def refuse(self, name: str, got: str, wanted: str) -> ValueError:
        """The error that says what a file holds, and what it should hold."""
        return ValueError(f"got {got} in {storage.join(self.url, name)}, wanted {wanted} (layout {self.layout})")

    def read(self, name: str) -> bytes:
        """The whole file.

        Raises:
            ValueError: it is missing or too large.
        """
        url = storage.join(self.url, name)
        self.require(name)
        if (num_bytes := storage.size(url)) > MAX_BYTES:
            raise ValueError(f"got {url} with {num_bytes} bytes, wanted at most {MAX_BYTES}; is it an annotation file?")
        return storage.read_bytes(url)

    def text(self, name: str) -> str:
        return decode_text(self.read(name), storage.join(self.url, name))

    def lines(self, name: str) -> list[str]:
        """Lines that are not blank, without the blanks around them."""
        return [line.strip() for line in self.text(name).splitlines() if line.strip()]

    def rows(self, name: str, *, required: str) -> Iterator[Mapping[Any, Any]]:
        """The rows of a table with a header."""
        self.require(name)
        return read_rows(storage.join(self.url, name), required=required)

    def json(self, name: str) -> Any:
        """The value of a JSON file, of any type; it is kept for the next look."""
        if name not in self._values:
            self._values[name] = self._parse(self.text(name), name, "no sound JSON")
        return self._values[name]

    def json_lines(self, name: str) -> Iterator[Any]:
        """The value of each line that is not blank."""
        for number, line in enumerate(self.text(name).split("\n"), start=1):
            if line.strip():
                yield self._parse(line, name, f"no sound JSON on line {number}")

    def file_of(self, split: str, usual: str) -> str | None:
        """The file of a split: the given one; the usual one, if none is given for any split."""
        if split in self.split_files:
            self.require(self.split_files[split])
            return self.split_files[split]
        return usual if usual in self.names and not self.split_files else None

    def _parse(self, text: str, name: str, got: str) -> Any:
        try:
            return json.loads(text, object_pairs_hook=_object)
        except (ValueError, RecursionError) as error:
            raise self.refuse(name, f"{got} ({error})", "a file as it was published") from None

    def _refuse(self, got: str) -> None:
        there = ", ".join(self.names[:8]) + (", …" if len(self.names) > 8 else "")
        raise ValueError(f"got {got} in {self.url}, which holds {there}; the layout {self.layout} wants {self.wanted}")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys are all different: the last of two would push out the first without a word."""
    value = dict(pairs)
    if len(value) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {twice[:60]!r} twice in one object")
    return value


def kind_of(value: Any) -> str:
    """A foreign value in a few words, for errors; however deep it is, one level is looked at."""
    if isinstance(value, dict):
        return "an object with " + (
            ", ".join(repr(key)[:40] for key in list(value)[:4] if type(key) is str) or "nothing"
        )
    if isinstance(value, str):
        return f"the text {value[:60]!r}"
    if isinstance(value, list):
        return f"a list of {len(value)} values" + (f", the first of type {type(value[0]).__name__}" if value else "")
    return f"a value of type {type(value).__name__}"
