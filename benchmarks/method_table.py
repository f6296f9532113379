"""What every method costs by counting alone: parameters, operations, bytes. Nothing is computed, nothing is timed."""

from typing import Any

import torch

from benchmarks.model import FRAME_SIZE, FRAMES, configs
from fpig_core.backbone import Backbone
from fpig_core.flops import count_flops
from fpig_core.models import Reranker, build_model
from fpig_core.preprocess import Preprocess

BYTES_A_NUMBER = 2


def main() -> None:
    print("| towers | method | parameters, M | GFLOP a video | bytes a video | of it for the second stage ", end="")
    print("| GFLOP a query | MFLOP a candidate |\n|---|---|---|---|---|---|---|---|")
    with torch.device("meta"):
        for size, pixels in FRAME_SIZE.items():
            preprocess = Preprocess(num_frames=FRAMES, size=pixels)
            for name, config in configs(Backbone(name=size, context_length=32), preprocess).items():
                print(row(size, name, build_model(config).eval()), flush=True)


@torch.no_grad()
def row(size: str, name: str, model: Any) -> str:
    preprocess = model.config.preprocess
    frame_BF3HW = torch.zeros(1, FRAMES, 3, preprocess.size, preprocess.size, dtype=torch.uint8)
    word_QL = torch.ones(1, model.config.backbone.context_length, dtype=torch.int64)
    columns = model.columns(model.encode_video(frame_BF3HW))
    judged = judged_columns(model)
    for_judging = sum(columns[column].numel() for column in judged if column != "vector") * BYTES_A_NUMBER
    candidate = "–"
    if judged:
        query, video = model.encode_query(word_QL), {column: columns[column] for column in judged}
        candidate = f"{count_flops(lambda: model.score(query, video)) / 1e6:.3g}"
    cells = (
        size,
        name,
        f"{sum(parameter.numel() for parameter in model.parameters()) / 1e6:.1f}",
        f"{count_flops(lambda: model.encode_video(frame_BF3HW)) / 1e9:.4g}",
        f"{columns['vector'].numel() * BYTES_A_NUMBER + for_judging:,}",
        f"{for_judging:,}" if judged else "–",
        f"{count_flops(lambda: model.encode_text(word_QL)) / 1e9:.3g}",
        candidate,
    )
    return f"| {' | '.join(cells)} |"


def judged_columns(model: Any) -> list[str]:
    """Columns that a second stage reads; none without one."""
    return [*model.rerank_columns, *model.optional_rerank_columns] if isinstance(model, Reranker) else []


if __name__ == "__main__":
    main()
