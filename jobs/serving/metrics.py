"""Figures for Prometheus.

Replicas of one machine write theirs into files of one folder, which ``PROMETHEUS_MULTIPROC_DIR`` names, so that the
answer of any of them holds the sums over all, and a counter survives the replica that counted. Without that variable
the figures are those of this process.
"""

import os
from pathlib import Path

import psutil
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
LATENCY_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)
__all__ = ["CONTENT_TYPE_LATEST", "Metrics"]


class Metrics:
    """The figures of one application."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        registry = self._registry
        self.requests = Counter(
            "fpig_requests", "Answered requests, by route and HTTP status.", ("route", "status"), registry=registry
        )
        self.seconds = Histogram(
            "fpig_request_seconds",
            "Seconds from a request to the end of its answer, by route.",
            ("route",),
            buckets=LATENCY_S,
            registry=registry,
        )
        self.in_flight = Gauge(
            "fpig_requests_in_flight",
            "Requests that are being answered.",
            multiprocess_mode="livesum",
            registry=registry,
        )
        self.batch_sizes = Histogram(
            "fpig_batch_size", "Queries that were searched at once.", buckets=BATCH_SIZES, registry=registry
        )
        self.errors = Counter("fpig_errors", "Answers with an error, by its code.", ("code",), registry=registry)
        self.videos = Gauge("fpig_index_videos", "Videos in the index.", multiprocess_mode="max", registry=registry)

    def text(self) -> bytes:
        """The text that a scrape gets."""
        if FOLDER not in os.environ:
            return generate_latest(self._registry)
        _forget_dead(Path(os.environ[FOLDER]))
        registry = CollectorRegistry()
        MultiProcessCollector(registry)
        return generate_latest(registry)


def _forget_dead(folder: Path) -> None:
    """Take the gauges of processes that are gone out of the sums: nobody counts their requests down any more."""
    for file in folder.glob("gauge_*_*.db"):
        if not psutil.pid_exists(int(file.stem.rpartition("_")[2])):
            file.unlink(missing_ok=True)
