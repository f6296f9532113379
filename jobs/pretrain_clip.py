"""``pretrain_clip``: a small CLIP for machines that cannot download one, trained on stills of the demo world."""

import dataclasses
import itertools
import json
import math
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from open_clip.model import CLIP
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import save_file
from torch import Tensor

from cluster.optim import Optim, make_optimizer, make_scheduler
from fpig_core.backbone import TINY, Backbone, TextTower, build_clip, tokenize
from fpig_core.losses import contrastive
from fpig_core.metrics import retrieval_metrics
from fpig_core.normalise import normalise, unit
from fpig_core.preprocess import Preprocess
from fpig_core.rows import Rows
from jobs.cli import Report, launch
from pipelines.synthetic_captions import stills

EXAMPLE = "python -m jobs.pretrain_clip --out runs/demo/clip"
WEIGHTS, RECORD = "open_clip.safetensors", "pretraining.json"
MAX_LOGIT_SCALE = math.log(100)
POOL = 2048


@dataclasses.dataclass(frozen=True, kw_only=True)
class Args:
    """Train the tower `tiny` from scratch on stills drawn on the fly, and write OUT/open_clip.safetensors."""

    out: str
    """Folder of the result; with the same settings already there, nothing is done."""
    steps: int = 900
    batch: int = 128
    lr: float = 2e-3
    num_stills: int = 20480
    """Different stills; they are drawn once and visited again in another order."""
    num_words: int = 20
    """Words of a caption that are read."""
    seed: int = 0
    json: str = ""
    """Also write the summary to this file."""

    def __post_init__(self) -> None:
        if min(self.steps, self.batch) < 1 or self.num_stills < self.batch + POOL:
            raise ValueError(
                f"got steps={self.steps}, batch={self.batch}, num_stills={self.num_stills}; "
                f"wanted at least 1, 1 and batch + {POOL}"
            )


def main(args: Args) -> Report:
    folder = Path(args.out)
    record = {name: value for name, value in dataclasses.asdict(args).items() if name not in ("out", "json")}
    next_command = f"python -m jobs.train demo --model.backbone.pretrained {folder / WEIGHTS}"
    if (folder / RECORD).exists():
        known = json.loads((folder / RECORD).read_text())
        if known["settings"] == record:
            return Report(title="A CLIP with these settings is there", summary=known, next_command=next_command)
    torch.manual_seed(args.seed)
    clip = build_clip(Backbone(name="tiny"))
    size = TINY["vision_cfg"]["image_size"]
    frame_N3HW, word_NL = draw_stills(args, size)
    model = PairedTowers(clip, Preprocess(num_frames=1, size=size))
    loss = fit(model, args, frame_N3HW[POOL:], word_NL[POOL:])
    result = {"settings": record, "last_loss": loss, **judge(model, frame_N3HW[:POOL], word_NL[:POOL])}
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in clip.state_dict().items()}, folder / WEIGHTS)
    (folder / RECORD).write_text(json.dumps(result, indent=2, sort_keys=True) + "\n")
    return Report(title=f"Pretrained {folder / WEIGHTS}", summary=result, next_command=next_command)


class PairedTowers(torch.nn.Module):
    """CLIP's two towers: uint8 stills [B, 3, H, W] and word numbers [B, L] → unit vectors [B, D] each."""

    def __init__(self, clip: CLIP, preprocess: Preprocess):
        super().__init__()
        self.visual, self.text, self.logit_scale = clip.visual, TextTower(clip), clip.logit_scale
        self.preprocess = preprocess

    def forward(self, frame_B3HW: Tensor, word_BL: Tensor) -> tuple[Tensor, Tensor]:
        return unit(self.visual(normalise(frame_B3HW, self.preprocess))), unit(self.text(word_BL).text_BD)


def draw_stills(args: Args, size: int) -> tuple[Tensor, Tensor]:
    """All stills and the words of their captions: uint8 [N, 3, size, size], int64 [N, L]; drawn on all cores."""
    counts = [min(POOL, args.num_stills - start) for start in range(0, args.num_stills, POOL)]
    seeds = [[args.seed, number] for number in range(len(counts))]
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        parts = list(pool.map(_draw, seeds, counts, itertools.repeat(size)))
    frames = torch.from_numpy(np.concatenate([part[0] for part in parts]))
    return frames, tokenize([caption for part in parts for caption in part[1]], context_length=args.num_words)


def _draw(seed: list[int], count: int, size: int) -> tuple[np.ndarray, list[str]]:
    return stills(np.random.default_rng(seed), count, size)


def fit(model: PairedTowers, args: Args, frame_N3HW: Tensor, word_NL: Tensor) -> float:
    """Train with symmetric InfoNCE; returns the mean loss of the last tenth of the steps."""
    optimizer = make_optimizer(model, Optim(lr=args.lr, warmup=0.05))
    scheduler = make_scheduler(optimizer, Optim(lr=args.lr, warmup=0.05), num_steps=args.steps)
    rows = Rows.of(torch.ones(args.batch, dtype=torch.bool))
    losses = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[note]}"), refresh_per_second=2) as progress:
        bar = progress.add_task("steps", total=args.steps, note="")
        for picked in itertools.islice(_batches(len(frame_N3HW), args.batch, seed=args.seed), args.steps):
            video, text = model(frame_N3HW[picked], word_NL[picked])
            loss = contrastive(text, video, scale=model.logit_scale.exp(), rows=rows, reduction="mean")
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            with torch.no_grad():
                model.logit_scale.clamp_(0, MAX_LOGIT_SCALE)
            losses.append(loss.item())
            progress.update(bar, advance=1, note=f"loss {losses[-1]:.3f}")
    tail = losses[-max(1, args.steps // 10) :]
    return sum(tail) / len(tail)


def _batches(num_samples: int, batch: int, *, seed: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.randperm(num_samples, generator=generator).split(batch)[: num_samples // batch]


@torch.inference_mode()
def judge(model: PairedTowers, frame_N3HW: Tensor, word_NL: Tensor) -> dict[str, float]:
    """Retrieval among 1,000 stills that were not trained on."""
    model.eval()
    pairs = zip(frame_N3HW[:1000].split(250), word_NL[:1000].split(250), strict=True)
    encoded = [model(frames, words) for frames, words in pairs]
    video, text = (torch.cat(part) for part in zip(*encoded, strict=True))
    return {"still_t2v_r1": retrieval_metrics(text, video, torch.arange(len(text)))["t2v"]["R@1"]}


def cli() -> None:
    launch(Args, main, example=EXAMPLE)


if __name__ == "__main__":
    cli()
