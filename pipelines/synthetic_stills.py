"""Write captioned stills of the synthetic world: a folder of JPEGs and a table of captions."""

import dataclasses
import io
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
from PIL import Image

from pipelines import storage
from pipelines.synthetic import SPLITS, CaptionRow, is_written, write_captions
from pipelines.synthetic_captions import stills

STILLS_NAME, TABLE_NAME, RECORD_NAME = "stills", "stills.csv", "stills.json"
_VERSION = 1
_BATCH = 256
_ONE_IN = 10
_QUALITY = 90


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stills:
    """How many stills; one in ten validates. Equal settings give equal bytes."""

    count: int
    seed: int = 0
    size: int = 96

    def __post_init__(self) -> None:
        if self.count < _ONE_IN or self.seed < 0 or self.size < 16:
            raise ValueError(f"got {self}, wanted at least {_ONE_IN} stills, a seed from 0 and a size from 16")


def write_stills(
    url: str, plan: Stills, *, num_workers: int = 2, progress: Callable[[int, int], None] = lambda done, total: None
) -> bool:
    """Write ``stills/*.jpg`` and ``stills.csv`` under ``url``; False if all of it is there already.

    An interrupted run continues where it stopped. ``progress`` is called with (stills done, stills in all).

    Raises:
        ValueError: the folder holds other stills.
    """
    settings = {"version": _VERSION, **dataclasses.asdict(plan)}
    table_url = storage.join(url, TABLE_NAME)
    if is_written(storage.join(url, RECORD_NAME), table_url, settings):
        return False
    starts = range(0, plan.count, _BATCH)
    rows: list[CaptionRow] = []
    # Spawned, not forked: the caller may run threads (Ray, fsspec).
    with ProcessPoolExecutor(num_workers, mp_context=get_context("spawn")) as pool:
        for written in pool.map(_write_batch, [url] * len(starts), [plan] * len(starts), starts):
            rows += written
            progress(len(rows), plan.count)
    write_captions(table_url, rows)
    return True


def draw_batch(plan: Stills, start: int) -> Iterator[tuple[CaptionRow, np.ndarray]]:
    """(row of the table, uint8 [3, S, S]) of the stills from ``start``, a multiple of the size of a batch."""
    # Four numbers, the last not zero: no clip and no still that pretraining draws has the same (trailing zeros, which
    # numpy's seeds do not count).
    rng = np.random.default_rng([plan.seed, len(SPLITS), start // _BATCH, 1])
    pictures, captions = stills(rng, min(_BATCH, plan.count - start), plan.size)
    for number, (picture_3SS, caption) in enumerate(zip(pictures, captions, strict=True), start=start):
        split = "train" if (number + 1) % _ONE_IN else "val"
        name = f"{split}-still-{number:06d}"
        yield CaptionRow(f"{name}.jpg", caption, split, name), picture_3SS


def _write_batch(url: str, plan: Stills, start: int) -> list[CaptionRow]:
    """Write the stills of a batch that are missing; the rows of all."""
    rows = []
    for row, picture_3SS in draw_batch(plan, start):
        still_url = storage.join(url, STILLS_NAME, row.video)
        if not storage.exists(still_url):
            buffer = io.BytesIO()
            Image.fromarray(picture_3SS.transpose(1, 2, 0)).save(buffer, "JPEG", quality=_QUALITY)
            storage.write_bytes(still_url, buffer.getvalue())
        rows.append(row)
    return rows
