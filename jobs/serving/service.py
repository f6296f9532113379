"""What the routes need: the searcher, its videos, and what it costs to show them."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from cluster.tracking import NO_TRACKING
from fpig_core.bundle import Bundle
from fpig_core.fpig import FPig
from fpig_core.models import Reranker, method_of
from jobs.models import load_model_of
from jobs.serving.batching import Answer, answer_batch
from jobs.serving.limits import ServeLimits
from jobs.serving.metrics import Metrics
from jobs.serving.requests import SearchRequest
from pipelines.corpus import manifest_of
from pipelines.media import Media
from pipelines.searcher import Searcher, corpus_of
from pipelines.uid_rows import UidRows

STATIC = Path(__file__).parent / "static"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Service:
    """Everything of one replica that answers are made from."""

    bundle: Bundle
    searcher: Searcher
    media: Media
    rows: UidRows
    limits: ServeLimits = ServeLimits()
    metrics: Metrics = dataclasses.field(default_factory=Metrics)

    def answer(self, requests: Sequence[SearchRequest]) -> list[Answer]:
        """``answer_batch``, counted."""
        self.metrics.batch_sizes.observe(len(requests))
        return answer_batch(self.searcher, requests)

    @property
    def model(self) -> FPig | None:
        """The model, if it selects tokens."""
        return self.bundle.model if isinstance(self.bundle.model, FPig) else None

    def about(self) -> dict:
        """What a client may want to know before it asks."""
        return {
            "status": "ok",
            "model_id": self.searcher.model_id,
            "method": method_of(self.bundle.config),
            "num_videos": self.searcher.num_videos,
            "columns": self.searcher.columns,
            "reranks": isinstance(self.bundle.model, Reranker),
            "draws_tokens": self.model is not None,
            "max_top": self.limits.max_top,
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """Where a service finds what it serves: it travels to replicas, which open it."""

    url: str
    model: str = ""
    manifest: str = ""
    tracking: str = NO_TRACKING
    device: str = "cpu"
    limits: ServeLimits = ServeLimits()

    def open(self) -> Service:
        """Load the model, the vectors and the rows of the manifest.

        Raises:
            ValueError: what is missing, or does not fit together.
        """
        corpus_url, meta = corpus_of(self.url)
        bundle, _ = load_model_of(meta, model=self.model, tracking=self.tracking, device=self.device)
        manifest = manifest_of(corpus_url, meta, manifest=self.manifest)
        return Service(
            bundle=bundle,
            searcher=Searcher.open(self.url, bundle=bundle, manifest=self.manifest),
            media=Media(manifest=manifest, preprocess=bundle.config.preprocess),
            rows=UidRows(manifest),
            limits=self.limits,
        )
