"""Embed the videos of a manifest as a Ray Data stream: each missing part once, in order, however often it is killed.

    missing parts → batches in their turn → decode tasks (CPU) → model actors → write tasks → receipts

A part appears only when it is whole, and its name says what it holds. So a rerun does what is missing and nothing else,
and so does a run over a manifest that grew.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset

from fpig_core.bundle import load_bundle
from fpig_core.preprocess import Preprocess
from pipelines import storage
from pipelines.columns import choose_columns
from pipelines.commit import commit, require_growth, require_same, stale_parts
from pipelines.corpus import find_committed, kept_manifest, parts_digest
from pipelines.embed_stages import Work, decode_batch, write_part
from pipelines.encode import EncodeVideos
from pipelines.frame_cache import require_fitting
from pipelines.manifest import Manifest
from pipelines.part_files import Tally, count_parts, find_parts
from pipelines.part_plan import Parts, plan_parts
from pipelines.parts import CorpusSpec, PartCount, Written, preprocess_digest
from pipelines.places import absolute, local_bundle
from pipelines.turns import Turns, take_turns

STREAM_PARTS = 1 << 12
"""Parts of one Ray Data stream: its driver remembers something of every block, and drops it when the stream ends."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmbedSettings:
    """Where and how to embed."""

    part_rows: int = 256
    """Manifest rows in one output file, at most: no file holds rows of two shards."""
    batch_size: int = 32
    """Videos that go through the model at once; it must divide part_rows. No batch holds videos of two files."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """What the model computes in; auto is bf16 on GPUs and fp32 on CPUs."""
    dtype: Literal["float16", "float32", "int8"] = "float16"
    """Precision of the stored vectors; int8 has a scale for each of them."""
    extra_columns: tuple[str, ...] = ()
    """Further columns to store, of those that the model offers."""
    rerank_columns: bool = True
    """Store what two-stage search needs, if the model reranks: features of every frame or patch, so much more data."""
    num_actors: int = 1
    """Copies of the model that work at the same time."""
    gpus_per_actor: float = 0.0
    """GPUs of each copy; 0 runs on the CPU."""
    cpus_per_actor: float = 2.0
    """CPUs of each copy."""
    cpus_per_decoder: float = 1.0
    """CPUs of each decoding task."""
    compile: bool = False
    """Compile the transformer blocks (``torch.compile``): a slow start, then faster; CPUs need a C++ compiler."""
    stale: Literal["refuse", "leave", "delete"] = "refuse"
    """What to do if the corpus holds videos that the manifest lacks now, or that were replaced: refuse, or leave them
    out of the new corpus; their files stay (leave), or are deleted once it is complete (delete)."""

    def __post_init__(self) -> None:
        if self.num_actors < 1 or self.batch_size < 1 or self.part_rows < 1:
            raise ValueError(
                f"got num_actors={self.num_actors}, batch_size={self.batch_size}, part_rows={self.part_rows}; "
                "all must be at least 1"
            )
        # Otherwise the vectors of a part would depend on which other parts were missing.
        if self.part_rows % self.batch_size:
            raise ValueError(
                f"part_rows={self.part_rows} is not a multiple of batch_size={self.batch_size}; "
                f"use part_rows={-(-self.part_rows // self.batch_size) * self.batch_size}"
            )
        if min(self.cpus_per_actor, self.cpus_per_decoder) <= 0 or self.gpus_per_actor < 0:
            raise ValueError(
                f"got cpus_per_actor={self.cpus_per_actor}, cpus_per_decoder={self.cpus_per_decoder}, "
                f"gpus_per_actor={self.gpus_per_actor}; CPUs must be above 0, GPUs at least 0"
            )
        if self.cpus_per_actor == self.cpus_per_decoder and not self.gpus_per_actor:
            raise ValueError(
                f"got cpus_per_actor = cpus_per_decoder = {self.cpus_per_actor}; they must differ without a GPU, "
                "or Ray Data decodes inside the model actors"
            )

    @property
    def bundles(self) -> list[dict[str, float]]:
        """Resources without which the stream could not move: all actors, and one task of any other stage."""
        actor = {"CPU": self.cpus_per_actor, "GPU": self.gpus_per_actor}
        return [*[actor] * self.num_actors, {"CPU": max(1.0, self.cpus_per_decoder)}]

    @property
    def model_precision(self) -> Literal["fp32", "bf16"]:
        """``precision`` with ``auto`` decided."""
        if self.precision != "auto":
            return self.precision
        return "bf16" if self.gpus_per_actor else "fp32"


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmbedPlan:
    """What an embedding is to do. ``missing`` is empty for a rerun of a finished one."""

    manifest: Manifest
    model_url: str
    out_url: str
    spec: CorpusSpec
    written: Written
    preprocess: Preprocess
    parts: Parts
    missing: Parts
    may_shrink: bool

    @property
    def num_missing(self) -> int:
        """Samples that are neither embedded nor rejected yet."""
        return self.missing.num_samples

    def padding(self, batch_size: int) -> float:
        """The part of the model's work that is not on samples: the last batch of a part is seldom full."""
        return 1 - self.num_missing / max(1, batch_size * self.missing.num_batches(batch_size))


def plan_embedding(manifest: Manifest, *, model_url: str, out_url: str, settings: EmbedSettings) -> EmbedPlan:
    """Find out what is missing, before anything is started.

    Raises:
        ValueError: no model there, it does not offer a column, or ``out_url`` holds a corpus of another model or
            layout, or one with videos that are not in the manifest.
    """
    model_url, out_url = absolute(model_url), absolute(out_url)
    with local_bundle(model_url) as folder:
        bundle = load_bundle(folder)
    preprocess = bundle.config.preprocess
    require_fitting(manifest, preprocess)
    spec = CorpusSpec(
        model_id=bundle.model_id,
        preprocess_digest=preprocess_digest(preprocess),
        columns=choose_columns(
            bundle.model, preprocess, extra=settings.extra_columns, for_reranking=settings.rerank_columns
        ),
        precision=settings.model_precision,
        dtype=settings.dtype,
        part_rows=settings.part_rows,
    )
    require_same(out_url, spec)
    parts = plan_parts(manifest, spec.digest, part_rows=spec.part_rows)
    is_there, foreign = find_parts(out_url, parts.names)
    if settings.stale == "refuse":
        # What an earlier commit left out counts no more.
        if meta := find_committed(out_url):
            require_growth(out_url, meta, parts.names)
        elif foreign.count:
            raise stale_parts(out_url, foreign.count, foreign.first)
    return EmbedPlan(
        manifest=dataclasses.replace(manifest, url=absolute(manifest.url), root=absolute(manifest.root)),
        model_url=model_url,
        out_url=out_url,
        spec=spec,
        written=Written(manifest_digest=manifest.digest),
        preprocess=preprocess,
        parts=parts,
        missing=parts.where(~is_there),
        may_shrink=settings.stale != "refuse",
    )


def embed_parts(plan: EmbedPlan, settings: EmbedSettings) -> Iterator[PartCount]:
    """Write the missing parts on the Ray cluster and yield a receipt of each as it is written."""
    for first in range(0, len(plan.missing), STREAM_PARTS):
        segment = dataclasses.replace(plan, missing=plan.missing[first : first + STREAM_PARTS])
        ends = segment.missing.batch_ends(settings.batch_size)
        with take_turns() as turns:
            turns.allow(batches_ahead(settings))
            for end, row in zip(ends, build_stream(segment, settings, turns).iter_rows(), strict=True):
                turns.allow(int(end) + batches_ahead(settings))
                yield PartCount(
                    name=str(row["name"]),
                    start=int(row["start"]),
                    num_embedded=int(row["num_embedded"]),
                    rejected=json.loads(row["rejected"]),
                )


def batches_ahead(settings: EmbedSettings) -> int:
    """How many batches may be on their way behind the last finished part: what a kill can cost.

    On the cluster as it is now: two batches for each decoding task that has room, and for each model, and two parts
    that are put together and written.
    """
    num_cpus = ray.cluster_resources().get("CPU", 0) - settings.num_actors * settings.cpus_per_actor
    num_decoders = max(1, int(num_cpus / settings.cpus_per_decoder))
    return 2 * (num_decoders + settings.num_actors + settings.part_rows // settings.batch_size)


def build_stream(plan: EmbedPlan, settings: EmbedSettings, turns: Turns, *, preserve_order: bool = True) -> Dataset:
    """The stream of receipts, not started yet. Without ``preserve_order`` the parts would not be what they claim."""
    size = settings.batch_size
    work = Work(
        manifest=plan.manifest,
        parts=plan.missing,
        spec=plan.spec,
        written=plan.written,
        preprocess=plan.preprocess,
        out_url=plan.out_url,
        batch_size=size,
    )
    shared = {"refs": [ray.put(work)]}
    actor = (plan.model_url, plan.spec, size, settings.gpus_per_actor > 0, settings.compile)
    with DataContext.current(_context(preserve_order=preserve_order)):
        numbers = ray.data.range(plan.missing.num_batches(size), override_num_blocks=1)
        return (
            turns.hold_back(numbers.repartition(target_num_rows_per_block=1, strict=True))
            .map_batches(
                decode_batch,  # pyright: ignore[reportArgumentType]  # Ray does not declare keyword arguments
                batch_size=1,
                num_cpus=settings.cpus_per_decoder,
                fn_kwargs=shared,
            )
            .map_batches(
                EncodeVideos,
                batch_size=size,
                num_cpus=settings.cpus_per_actor,
                num_gpus=settings.gpus_per_actor or None,
                compute=ActorPoolStrategy(size=settings.num_actors),
                fn_constructor_args=actor,
            )
            .repartition(target_num_rows_per_block=plan.spec.part_rows, strict=True)
            .map_batches(
                write_part,  # pyright: ignore[reportArgumentType]
                batch_size=plan.spec.part_rows,
                num_cpus=1,
                fn_kwargs=shared,
            )
        )


def finish_embedding(plan: EmbedPlan, counts: Tally, *, lineage: Mapping[str, Any]) -> dict[str, Any]:
    """Commit a corpus whose parts are all there -> content of the commit. What ``counts`` lacks is counted now."""
    if before := find_committed(plan.out_url):
        counts.add_committed(before)
    for count in count_parts(plan.out_url, counts.unknown):
        counts.add(count)
    places = {"manifest": plan.manifest.root, "model": plan.model_url}
    return commit(
        plan.out_url,
        spec=plan.spec,
        manifest=plan.manifest,
        parts=plan.parts,
        counts=counts,
        written=plan.written,
        lineage=places | dict(lineage),
        may_shrink=plan.may_shrink,
    )


def committed(plan: EmbedPlan) -> dict[str, Any] | None:
    """Content of the commit if the corpus is complete and of this very manifest, else None."""
    meta = None if plan.missing else find_committed(plan.out_url)
    wanted = {
        "manifest_digest": plan.manifest.digest,
        "parts_digest": parts_digest([name.decode() for name in plan.parts.names]),
    }
    if meta is None or any(meta[name] != value for name, value in wanted.items()):
        return None
    return meta if storage.exists(kept_manifest(plan.out_url, plan.manifest.digest)) else None


def _context(*, preserve_order: bool) -> DataContext:
    context = DataContext.get_current().copy()
    context.execution_options.preserve_order = preserve_order
    # The default would slice blocks by bytes, and with them the parts.
    context.target_max_block_size = None
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    return context
