"""Goals 10 and 11: exact search, and a compressed first stage with exact scores (``benchmarks.search_index``).

Goal 12: EERCF's second stage on the 50 best of the first stage, against the same score on every pair.
"""

import faiss
import numpy as np
import torch

from benchmarks.measure import Result, alternate, is_quick, machine, ratios, save
from benchmarks.search_index import index_results
from fpig_core.backbone import Backbone
from fpig_core.eercf import Eercf, EercfConfig
from fpig_core.eercf_scores import VideoFeatures, text_video_score
from fpig_core.index import ExactIndex
from fpig_core.rows import at_least_float32
from fpig_core.two_stage import rerank as score_candidates
from fpig_core.two_stage import score_pairs, search_two_stage

WIDTH = 512
NUM_RERANKED_QUERIES, NUM_ALIGNED_QUERIES, NUM_FRAMES, FIRST_STAGE_K = 64, 4, 12, 50
VIDEO_BLOCK = 25
"""Videos whose scores are computed at once; larger blocks leave the cache and are slower."""


def main() -> None:
    quick, where = is_quick(), machine()
    faiss.omp_set_num_threads(1)  # Two threads that wait for each other time the neighbours' work, not ours.
    torch.set_num_threads(1)
    results = [
        *index_results(num_vectors=10_000 if quick else 1_000_000),
        *rerank(num_videos=500 if quick else 10_000),
    ]
    save("search", results, machine=where, quick=quick)


def rerank(*, num_videos: int, repeats: int = 5) -> list[Result]:
    """Random features as a corpus of frames keeps them; all three ways must agree on the scores."""
    rng, model = np.random.default_rng(0), Eercf(EercfConfig(backbone=Backbone(name="ViT-B-32"))).eval()
    text_QD = _unit(rng, NUM_RERANKED_QUERIES)
    query = {"text": text_QD, "text_to_video": text_QD}
    video = {
        "vector": _unit(rng, num_videos).astype(np.float16),
        "frame_vectors": _unit(rng, num_videos, NUM_FRAMES).astype(np.float16),
        "temporal_frame_vectors": _unit(rng, num_videos, NUM_FRAMES).astype(np.float16),
    }
    index, found = ExactIndex(video["vector"]), {}
    _, candidate_QK = index.search(text_QD, FIRST_STAGE_K)
    query_n = np.arange(NUM_ALIGNED_QUERIES).repeat(num_videos)
    video_n = np.tile(np.arange(num_videos), NUM_ALIGNED_QUERIES)

    def by_candidates() -> None:
        found["rerank"] = score_candidates(model, query, video, candidate_QK)

    def in_two_stages() -> None:
        found["both stages"] = search_two_stage(index, model, text_QD, query, video, first_stage_k=FIRST_STAGE_K)

    def by_products() -> None:
        found["products"] = _score_by_products(model, text_QD, video)

    def pair_by_pair() -> None:
        found["pairs"] = score_pairs(model, query, video, query_n=query_n, video_n=video_n)

    ways = {
        "rerank": by_candidates,
        "both stages": in_two_stages,
        "full products": by_products,
        "all pairs": pair_by_pair,
    }
    timings = alternate(ways, repeats=repeats)
    score_QK, position_QK = found["both stages"]
    np.testing.assert_allclose(score_QK, np.take_along_axis(found["products"], position_QK, axis=1), atol=1e-4)
    np.testing.assert_allclose(found["rerank"], np.take_along_axis(found["products"], candidate_QK, axis=1), atol=1e-4)
    np.testing.assert_allclose(found["pairs"], found["products"][:NUM_ALIGNED_QUERIES].ravel(), atol=1e-4)
    products, pairs = "in matrix products of all queries and blocks of videos", "one aligned pair beside the other"
    scaled = NUM_RERANKED_QUERIES / NUM_ALIGNED_QUERIES
    compared = [
        ("full products", f"{products}, ÷ rerank of given top {FIRST_STAGE_K}", "rerank", 1.0),
        ("full products", f"{products}, ÷ first stage and rerank of its top {FIRST_STAGE_K}", "both stages", 1.0),
        ("all pairs", f"{pairs} (1 of {scaled:.0f} queries), ÷ rerank of given top {FIRST_STAGE_K}", "rerank", scaled),
    ]
    return [
        Result(
            goal=12,
            what=f"EERCF without patches, {num_videos:,} videos × {NUM_FRAMES} frames × {WIDTH}, "
            f"{NUM_RERANKED_QUERIES} queries, one thread: time to score every pair {how}",
            wanted="wall: floor 20, goal 50",
            figures=ratios(timings[slow], timings[fast], factor=factor),
            sides={name: timings[name] for name in (slow, fast)},
        )
        for slow, how, fast, factor in compared
    ]


@torch.inference_mode()
def _score_by_products(model: Eercf, text_QD: np.ndarray, video: dict[str, np.ndarray]) -> np.ndarray:
    """Scores of all pairs [Q, B]; a block of videos in float32 at once."""
    text, blocks = torch.from_numpy(text_QD), []
    names = ("vector", "frame_vectors", "temporal_frame_vectors")
    for start in range(0, len(video["vector"]), VIDEO_BLOCK):
        vector_BD, frame_BFD, temporal_BFD = (
            at_least_float32(torch.from_numpy(video[name][start : start + VIDEO_BLOCK])) for name in names
        )
        no_patch_BF0D = frame_BFD[:, :, None][:, :, :0]
        score_BQ = text_video_score(
            text,
            text,
            VideoFeatures(vector_BD, frame_BFD, temporal_BFD, no_patch_BF0D),
            weights=model.config.rerank,
            temperatures=model.config.temperatures,
            frame_mix_FF=model.frame_mix,
        )
        blocks.append(score_BQ)
    return torch.cat(blocks).T.numpy()


def _unit(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Float32 [*shape, WIDTH]."""
    x = rng.standard_normal((*shape, WIDTH), dtype=np.float32)
    x /= np.linalg.norm(x, axis=-1, keepdims=True)
    return x


if __name__ == "__main__":
    main()
