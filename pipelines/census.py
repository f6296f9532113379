"""What a shard set holds, counted: kinds of files, captions and their lengths, and videos where they were probed."""

import dataclasses
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.quarantine import OK

CAPTIONS_UPTO = (0, 1, 5, 20)
WORDS_UPTO = (5, 10, 20, 40, 77)  # CLIP's text towers see 77 tokens
SECONDS_UPTO = (1, 5, 10, 30, 60, 300, 1800)
_WORD = pc.MatchSubstringOptions(r"\S+")


class Histogram:
    """Counts of values by bins; a bin holds the values above the bound before, up to and including its own.

    ``whole``: the values are whole numbers, from 0.
    """

    def __init__(self, upto: tuple[int, ...], *, whole: bool):
        self.upto, self.whole = upto, whole
        self.counts = np.zeros(len(upto) + 1, np.int64)

    def add(self, values: np.ndarray) -> None:
        bins = np.searchsorted(self.upto, values, side="left")
        self.counts += np.bincount(bins, minlength=len(self.counts))

    def bins(self) -> list[tuple[int | None, int | None]]:
        """(bound below, bound) of each bin, None where there is no bound."""
        return list(zip((None, *self.upto), (*self.upto, None), strict=True))

    def as_list(self) -> list[dict[str, int | None]]:
        """``upto`` and ``count`` of each bin."""
        return [{"upto": upto, "count": int(n)} for (_, upto), n in zip(self.bins(), self.counts, strict=True)]


@dataclasses.dataclass(kw_only=True)
class Census:
    """Sums over all samples; those of captions and of probes over the sound ones.

    ``unreadable`` counts the sound samples whose header could not be read, by reason code.
    """

    num_samples: int = 0
    num_ok: int = 0
    num_captioned: int = 0
    num_captions: int = 0
    num_video_bytes: int = 0
    longest_caption: int = 0
    num_probed: int = 0
    total_seconds: float = 0.0
    suffixes: Counter[str] = dataclasses.field(default_factory=Counter)
    reasons: Counter[str] = dataclasses.field(default_factory=Counter)
    codecs: Counter[str] = dataclasses.field(default_factory=Counter)
    sizes: Counter[str] = dataclasses.field(default_factory=Counter)
    unreadable: Counter[str] = dataclasses.field(default_factory=Counter)
    captions_a_sample: Histogram = dataclasses.field(default_factory=lambda: Histogram(CAPTIONS_UPTO, whole=True))
    caption_words: Histogram = dataclasses.field(default_factory=lambda: Histogram(WORDS_UPTO, whole=True))
    seconds: Histogram = dataclasses.field(default_factory=lambda: Histogram(SECONDS_UPTO, whole=False))

    def add(self, table: pa.Table) -> None:
        """Count rows of ``MANIFEST_SCHEMA`` or ``PROBED_SCHEMA``."""
        self.num_samples += table.num_rows
        self.num_video_bytes += int(table["video_bytes"].to_numpy().sum())
        self.suffixes.update(_counts(table["video_suffix"]))
        self.reasons.update(_counts(table["status"]))
        self.num_ok += self.reasons.pop(OK, 0)
        ok = table.filter(_call("equal", table["status"], OK))
        self._add_captions(ok["captions"])
        if "probe" in ok.column_names:
            self._add_probes(ok)

    def _add_captions(self, captions: pa.ChunkedArray) -> None:
        counts = _call("list_value_length", captions).to_numpy()
        self.num_captions += int(counts.sum())
        self.num_captioned += int((counts > 0).sum())
        self.captions_a_sample.add(counts)
        texts = _call("list_flatten", captions)
        if len(texts):
            self.caption_words.add(_call("count_substring_regex", texts, options=_WORD).to_numpy())
            self.longest_caption = max(self.longest_caption, int(_call("utf8_length", texts).to_numpy().max()))

    def _add_probes(self, ok: pa.Table) -> None:
        self.num_probed += ok.num_rows
        self.unreadable.update(_counts(ok["probe"]))
        readable = ok.filter(_call("equal", ok["probe"], OK))
        self.unreadable.pop(OK, None)
        self.codecs.update(_counts(readable["codec"]))
        sides = zip(readable["width"].to_pylist(), readable["height"].to_pylist(), strict=True)
        self.sizes.update(f"{width}×{height}" for width, height in sides)
        seconds = readable["duration_s"].drop_null().to_numpy()
        self.seconds.add(seconds)
        self.total_seconds += float(seconds.sum())

    def as_dict(self) -> dict[str, Any]:
        """Plain values; a histogram as a list of bins, the last one without a bound."""
        plain: dict[str, Any] = {}
        for name, value in vars(self).items():
            if isinstance(value, Histogram):
                plain[name] = value.as_list()
            elif isinstance(value, Counter):
                plain[name] = dict(value.most_common())
            else:
                plain[name] = value
        return plain


def _counts(column: pa.ChunkedArray) -> dict[str, int]:
    return {pair["values"]: pair["counts"] for pair in column.value_counts().to_pylist()}


def _call(function: str, *values: Any, options: pc.FunctionOptions | None = None) -> Any:
    return pc.call_function(function, list(values), options)
