"""Goal 10: exact top-10 of unit vectors by our index and by FAISS's flat index as it comes."""

import faiss
import numpy as np

from benchmarks.measure import Result, alternate, is_quick, machine, ratios, save
from fpig_core.index import ExactIndex

NUM_QUERIES, WIDTH, TOP = 256, 512, 10


def main() -> None:
    quick, where = is_quick(), machine()
    faiss.omp_set_num_threads(1)  # Two threads that wait for each other time the neighbours' work, not ours.
    save("search", [search(num_vectors=10_000 if quick else 200_000)], machine=where, quick=quick)


def search(*, num_vectors: int, repeats: int = 5) -> Result:
    rng = np.random.default_rng(0)
    vector_BD, query_QD = _unit(rng, num_vectors), _unit(rng, NUM_QUERIES)
    ours = ExactIndex(vector_BD)
    flat = faiss.IndexFlatIP(WIDTH)
    flat.add(vector_BD)  # pyright: ignore[reportCallIssue]
    del vector_BD
    found = {}

    def by_faiss() -> None:
        found["faiss"] = flat.search(query_QD, TOP)  # pyright: ignore[reportCallIssue]

    def by_ours() -> None:
        found["ours"] = ours.search(query_QD, TOP)

    timings = alternate({"faiss": by_faiss, "ours": by_ours}, repeats=repeats)
    np.testing.assert_array_equal(found["faiss"][1], found["ours"][1])
    return Result(
        goal=10,
        what=f"exact top-{TOP} of {num_vectors:,} × {WIDTH}, batch {NUM_QUERIES}, one thread: "
        "time of FAISS flat ÷ ours",
        wanted="wall: floor 0.8, goal 1.0",
        figures=ratios(timings["faiss"], timings["ours"]),
        sides=dict(timings),
    )


def _unit(rng: np.random.Generator, count: int) -> np.ndarray:
    x_BD = rng.standard_normal((count, WIDTH), dtype=np.float32)
    x_BD /= np.linalg.norm(x_BD, axis=1, keepdims=True)
    return x_BD


if __name__ == "__main__":
    main()
