"""The vectors of a corpus as a stream: what is read at once does not grow with the corpus."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from pipelines import storage
from pipelines.columns import VECTOR
from pipelines.ordered import map_on_threads
from pipelines.part_files import NUM_READERS
from pipelines.parts import CorpusSpec, read_table, values_of


def iter_vectors(corpus_url: str, corpus_meta: Mapping[str, Any]) -> Iterator[np.ndarray]:
    """The vectors of one part after the other [rows, D], in the order and dtype of the corpus; float32 of int8.

    Raises:
        ValueError: vectors with NaN or inf, or a part that is not as long as it was.
    """
    spec = CorpusSpec.from_meta(corpus_meta)
    column, stored = spec.column(VECTOR), spec.stored_names(spec.column(VECTOR))
    names, lengths = corpus_meta["parts"], corpus_meta["part_embedded"]

    def read(name: str) -> np.ndarray:
        return values_of(read_table(storage.join(corpus_url, "parts", f"{name}.parquet"), columns=stored), column)

    vectors = map_on_threads(read, names, num_threads=NUM_READERS, num_ahead=NUM_READERS)
    for name, length, vector in zip(names, lengths, vectors, strict=True):
        if len(vector) != length:
            raise ValueError(f"part {name} is not as long as it was; run python -m jobs.verify_corpus")
        if not np.isfinite(vector).all():
            raise ValueError(f"got vectors with NaN or inf in part {name}; run python -m jobs.verify_corpus")
        yield vector
