"""First stages of a nearly exact search: what FAISS stores in place of the vectors, by kind, and how hard it looks.

Random rotations spread what vectors differ in over all numbers, so that codes of two numbers each, or of one bit each,
lose equally little everywhere. Vectors of CLIP differ most in few directions.
"""

import dataclasses
import math
from typing import Any, Literal, get_args

import faiss
import numpy as np

Kind = Literal["flat", "ivf", "hnsw", "int8", "binary", "fastscan"]
KINDS: tuple[Kind, ...] = get_args(Kind)
WITH_SELECTOR: tuple[Kind, ...] = ("ivf", "hnsw", "int8")
"""Kinds whose first stage can leave rows out."""
NUM_TRAINING = 65_536
MIN_VECTORS = 256
NUM_LINKS, BUILD_EFFORT = 32, 64
POINTS_PER_LIST = 39
"""The least that FAISS's k-means wants of each list."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Effort:
    """How hard a search looks: what the first stage visits, and how many of its best are scored exactly.

    ``visits`` are the lists of ``ivf`` or the candidates kept by ``hnsw``; the other kinds visit all.
    ``num_candidates`` holds for ten results and grows with their number.
    """

    num_candidates: int
    visits: int = 0

    def __post_init__(self) -> None:
        if self.num_candidates < 1 or self.visits < 0:
            raise ValueError(f"got {self}, wanted at least one candidate and no negative visits")

    def candidates(self, k: int) -> int:
        return max(k, self.num_candidates * math.ceil(k / 10))


def first_stage(kind: Kind, dim: int, num_vectors: int) -> faiss.Index:
    """An empty index of this kind, to be trained and filled.

    ``fastscan`` and ``ivf`` keep 4 bits for every two numbers (André et al. 2015; FAISS's fast-scan layout), ``binary``
    one bit for each and compares by Hamming distance, ``int8`` and ``hnsw`` 8 bits for each.

    Raises:
        ValueError: too few vectors to learn codes from.
    """
    assert kind != "flat"
    if num_vectors < MIN_VECTORS:
        raise ValueError(f"got {num_vectors} vectors, wanted at least {MIN_VECTORS} for kind {kind}; use --kind flat")
    product, bits8 = faiss.METRIC_INNER_PRODUCT, faiss.ScalarQuantizer.QT_8bit
    num_codes = dim // 2 if dim % 2 == 0 else dim
    if kind == "int8":
        return faiss.IndexScalarQuantizer(dim, bits8, product)
    if kind == "hnsw":
        graph = faiss.IndexHNSWSQ(dim, bits8, NUM_LINKS, product)  # pyright: ignore[reportArgumentType]
        graph.hnsw.efConstruction = BUILD_EFFORT
        return graph
    if kind == "binary":
        codes: faiss.Index = faiss.IndexLSH(dim, dim, False, True)
    elif kind == "fastscan":
        codes = faiss.IndexPQFastScan(dim, num_codes, 4, product)
    else:
        lists, num_lists = faiss.IndexFlatIP(dim), num_lists_for(num_vectors)
        codes = faiss.IndexIVFPQFastScan(lists, dim, num_lists, num_codes, 4, product)
        codes.cp.spherical = True
    return faiss.IndexPreTransform(faiss.RandomRotationMatrix(dim, dim), codes)


def num_lists_for(num_vectors: int) -> int:
    """Lists of ``ivf``: 4·√B, as FAISS's guidelines have it, but no more than the training can place."""
    return max(1, min(round(4 * math.sqrt(num_vectors)), min(num_vectors, NUM_TRAINING) // POINTS_PER_LIST))


def ladder(kind: Kind, num_vectors: int) -> list[Effort]:
    """Efforts to try, the cheapest first."""
    counts = [count for count in (50, 100, 200, 400, 800, 1600) if count < num_vectors] or [num_vectors]
    if kind == "hnsw":
        return [Effort(num_candidates=min(visits, num_vectors), visits=visits) for visits in (64, 128, 256, 512, 1024)]
    if kind == "ivf":
        lists = num_lists_for(num_vectors)
        visits = sorted({max(1, math.ceil(lists * share)) for share in (0.01, 0.03, 0.1, 0.3, 1.0)})
        return [Effort(num_candidates=count, visits=visit) for visit in visits for count in counts[1::2] or counts]
    return [Effort(num_candidates=count) for count in counts]


def search_parameters(kind: Kind, effort: Effort, *, only: np.ndarray | None, num_vectors: int) -> Any:
    """What FAISS's ``search`` takes as ``params``; None where there is nothing to say."""
    made: Any = faiss  # the names of its parameters are made up at import
    selector = {} if only is None else {"sel": _bitmap(only, num_vectors)}
    if kind == "hnsw":
        return made.SearchParametersHNSW(efSearch=effort.visits, **selector)
    if kind == "ivf":
        return made.SearchParametersPreTransform(
            index_params=made.SearchParametersIVF(nprobe=effort.visits, **selector)
        )
    return made.SearchParameters(**selector) if selector else None


def _bitmap(only: np.ndarray, num_vectors: int) -> faiss.IDSelector:
    is_wanted = np.zeros(num_vectors, bool)
    is_wanted[only] = True
    return faiss.IDSelectorBitmap(np.packbits(is_wanted, bitorder="little"))  # pyright: ignore[reportCallIssue]
