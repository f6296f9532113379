"""The vectors of a corpus as a stream: what is read at once does not grow with the corpus."""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from pipelines import storage
from pipelines.columns import VECTOR
from pipelines.part_files import NUM_READERS
from pipelines.parts import CorpusSpec, read_table, values_of


def iter_vectors(corpus_url: str, corpus_meta: Mapping[str, Any]) -> Iterator[np.ndarray]:
    """The vectors of one part after the other [rows, D], in the order and dtype of the corpus; float32 of int8.

    Raises:
        ValueError: vectors with NaN or inf, or a part that is not as long as it was.
    """
    spec = CorpusSpec.from_meta(corpus_meta)
    column, stored = spec.column(VECTOR), spec.stored_names(spec.column(VECTOR))
    parts = list(zip(corpus_meta["parts"], corpus_meta["part_embedded"], strict=True))

    def read(name: str) -> np.ndarray:
        return values_of(read_table(storage.join(corpus_url, "parts", f"{name}.parquet"), columns=stored), column)

    with ThreadPoolExecutor(NUM_READERS) as pool:
        for first in range(0, len(parts), NUM_READERS):
            some = parts[first : first + NUM_READERS]
            for (name, length), vector in zip(some, pool.map(read, (name for name, _ in some)), strict=True):
                if len(vector) != length:
                    raise ValueError(f"part {name} is not as long as it was; run python -m jobs.verify_corpus")
                if not np.isfinite(vector).all():
                    raise ValueError(f"got vectors with NaN or inf in part {name}; run python -m jobs.verify_corpus")
                yield vector
