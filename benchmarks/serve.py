"""The search service under load, over HTTP: one client, and many at once with and without batches.

A ViT-B/32 F-Pig with random weights and made-up vectors: the text tower and the index cost what real ones do.
"""

import asyncio
import dataclasses
import itertools
import statistics
import tempfile
import time
from typing import Any

import aiohttp
import numpy as np
import pyarrow as pa
import ray
import torch
from ray import serve
from ray.serve.config import HTTPOptions

from benchmarks.measure import Result, Spread, is_quick, machine, save
from cluster.session import connect
from fpig_core.backbone import Backbone
from fpig_core.bundle import Bundle
from fpig_core.fpig import FPig, FPigConfig
from fpig_core.index import ExactIndex
from fpig_core.preprocess import Preprocess
from jobs.serving.deployment import build, metrics_folder
from jobs.serving.limits import ServeLimits
from jobs.serving.service import Service, Source
from pipelines.manifest import MANIFEST_SCHEMA, load_manifest, sample_uid, save_manifest
from pipelines.media import Media
from pipelines.search_rows import rows_of
from pipelines.searcher import Searcher
from pipelines.uid_rows import UidRows

PORT, WIDTH, TOP = 8765, 512, 10
MODEL_ID = "made-up"
ROUNDS = 3
MANY = 16
PATIENT = ServeLimits(search_timeout_s=300)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MadeUp(Source):
    """A source that needs no training: ``url`` is the folder of a manifest of as many rows as there are vectors."""

    backbone: str = "ViT-B-32"
    size: int = 224

    def open(self) -> Service:
        torch.manual_seed(0)
        config = FPigConfig(backbone=Backbone(name=self.backbone), preprocess=Preprocess(size=self.size))
        bundle = Bundle(FPig(config).eval(), config, MODEL_ID)
        manifest = load_manifest(self.url)
        rows = rows_of(manifest, manifest.slice(0, manifest.num_rows, columns=["uid"])["uid"].to_pylist())
        vector_BD = np.random.default_rng(0).standard_normal((rows.num_rows, _width(bundle)), np.float32)
        vector_BD /= np.linalg.norm(vector_BD, axis=1, keepdims=True)
        meta = {"model_id": MODEL_ID}
        searcher = Searcher(
            bundle=bundle,
            index=ExactIndex(vector_BD),
            rows=rows,
            corpus_url=self.url,
            meta=meta,
            read_commit=lambda: meta,
        )
        media = Media(manifest=manifest, preprocess=config.preprocess)
        return Service(bundle=bundle, searcher=searcher, media=media, rows=UidRows(manifest), limits=self.limits)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Load:
    """What a number of clients saw, each of which asks again as soon as it is answered."""

    seconds: list[float]
    wall_s: float
    batch_sizes: list[int]

    @property
    def rate(self) -> float:
        return len(self.seconds) / self.wall_s

    def told(self) -> str:
        p50, p99 = np.percentile(self.seconds, [50, 99]) * 1000
        batch = statistics.fmean(self.batch_sizes)
        return f"{self.rate:.1f} queries/s, p50 {p50:.0f} ms, p99 {p99:.0f} ms, batch {batch:.1f}"


def main() -> None:
    quick, where = is_quick(), machine()
    num_videos, num_queries = (1000, 24) if quick else (100_000, 48)
    connect()
    try:
        with tempfile.TemporaryDirectory() as folder:
            _write_manifest(folder, num_videos)
            start(MadeUp(url=folder, backbone="tiny", size=32) if quick else MadeUp(url=folder))
            rounds = measure(num_queries)
    finally:
        ray.shutdown()
    save("serve", results(rounds, num_videos=num_videos), machine=where, quick=quick)


def start(source: MadeUp) -> None:
    """Two applications, one of which searches each query by itself."""
    serve.start(proxy_location="HeadOnly", http_options=HTTPOptions(host="127.0.0.1", port=PORT))
    together = dataclasses.replace(source, limits=PATIENT)
    alone = dataclasses.replace(source, limits=dataclasses.replace(PATIENT, max_batch=1))
    options: dict[str, Any] = {"num_replicas": 1, "cpus": 0.5, "gpus": 0, "num_threads": 1}
    for name, each in (("together", together), ("alone", alone)):
        serve.run(build(each, metrics_folder=metrics_folder(), **options), name=name, route_prefix=f"/{name}")


def measure(num_queries: int) -> list[dict[str, Load]]:
    """The ways by turns, in alternating order, after one round that does not count."""
    ways = {
        "one client": ("together", 1),
        f"{MANY} clients, batched": ("together", MANY),
        f"{MANY} clients, one by one": ("alone", MANY),
    }
    rounds = []
    for number in range(ROUNDS + 1):
        order = list(ways)[:: 1 if number % 2 else -1]
        found = {name: asyncio.run(load(*ways[name], num_queries=num_queries)) for name in order}
        rounds += [found] if number else []
    return rounds


async def load(application: str, num_clients: int, *, num_queries: int) -> Load:
    """Ask ``num_queries`` different queries from ``num_clients`` clients."""
    numbers, seconds, sizes = itertools.count(), [], []

    async def client(session: aiohttp.ClientSession) -> None:
        while (number := next(numbers)) < num_queries:
            begun = time.perf_counter()
            body = {"query": f"somebody does thing number {number} in a kitchen", "top": TOP}
            async with session.post(f"http://127.0.0.1:{PORT}/{application}/search", json=body) as answer:
                assert answer.status == 200, await answer.text()
                told = await answer.json()
            seconds.append(time.perf_counter() - begun)
            sizes.append(told["timing"]["batch_size"])

    async with aiohttp.ClientSession() as session:
        begun = time.perf_counter()
        await asyncio.gather(*(client(session) for _ in range(num_clients)))
        return Load(seconds=seconds, wall_s=time.perf_counter() - begun, batch_sizes=sizes)


def results(rounds: list[dict[str, Load]], *, num_videos: int) -> list[Result]:
    """Queries per second with batches, against both other ways; and what each way did in all rounds."""
    one, batched, alone = sorted(rounds[0], key=lambda name: ("one by one" in name, "batched" in name))
    sides = {name: _joined([found[name] for found in rounds]).told() for name in (one, batched, alone)}
    what = f"search over HTTP, F-Pig ViT-B/32, {num_videos:,} × {WIDTH} exact, top {TOP}, one replica of one thread: "
    return [
        Result(
            goal=0,
            what=f"{what}queries/s of {batched} ÷ {other}",
            wanted="no goal; for comparison",
            figures={"wall": Spread.of([found[batched].rate / found[other].rate for found in rounds])},
            sides=sides,
        )
        for other in (one, alone)
    ]


def _joined(loads: list[Load]) -> Load:
    return Load(
        seconds=[each for load in loads for each in load.seconds],
        wall_s=sum(load.wall_s for load in loads),
        batch_sizes=[each for load in loads for each in load.batch_sizes],
    )


def _width(bundle: Bundle) -> int:
    word_QL = torch.zeros(1, bundle.config.backbone.context_length, dtype=torch.long)
    with torch.inference_mode():
        return bundle.model.encode_text(word_QL).shape[1]


def _write_manifest(folder: str, num_rows: int) -> None:
    rows = [
        dict.fromkeys(MANIFEST_SCHEMA.names)
        | {"uid": sample_uid("a.tar", f"{i:08d}"), "shard": "a.tar", "key": f"{i:08d}", "video_id": f"video{i}"}
        | {"captions": [f"caption of video {i}"], "status": "ok"}
        for i in range(num_rows)
    ]
    save_manifest(folder, pa.Table.from_pylist(rows, schema=MANIFEST_SCHEMA))


if __name__ == "__main__":
    main()
