"""The application under Ray Serve: replicas, each with the model and the index, behind Serve's HTTP proxy."""

import asyncio
import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from fastapi import FastAPI
from ray import serve
from ray.serve.config import HTTPOptions
from ray.serve.context import _get_global_client
from ray.serve.deployment import Application

from jobs.serving.app import make_app
from jobs.serving.batching import Answer
from jobs.serving.errors import busy, too_slow
from jobs.serving.metrics import FOLDER
from jobs.serving.requests import SearchRequest
from jobs.serving.service import Source

APP = "fpig-search"
MAX_ONGOING = 256
"""Requests that a replica works on at once, videos and pictures among them."""
MAX_QUEUED = 512
"""Requests that wait at a proxy for a replica; further ones get 503 from Serve itself."""
DRAIN_S = 20.0
QUIET = {"log_level": "WARNING", "enable_access_log": False}
HEALTH_S = 10.0
REQUEST_TIMEOUT_S = 120.0


@serve.ingress()
class SearchReplica:
    """One replica. It takes requests once ``__init__`` is done: the model and the index are loaded."""

    def __init__(self, source: Source, num_threads: int, allowed_hosts: Sequence[str]) -> None:
        Path(os.environ[FOLDER]).mkdir(parents=True, exist_ok=True)
        torch.set_num_threads(num_threads)
        self._service, self._allowed_hosts = source.open(), allowed_hosts
        limits = self._service.limits
        # Judging candidates reads from a store, which may keep it waiting for minutes: other searches go on.
        self._threads = {judges: ThreadPoolExecutor(1, thread_name_prefix="search") for judges in (False, True)}
        self._num_waiting, self._max_waiting = 0, limits.max_waiting
        self._timeout_s = limits.search_timeout_s
        # Serve's wrapper takes one request, gives one answer.
        self._with_others: dict[bool, Any] = {False: self.search_batch, True: self.judge_batch}
        for batch in self._with_others.values():
            batch.set_max_batch_size(limits.max_batch)
            batch.set_batch_wait_timeout_s(limits.batch_wait_s)

    def __serve_build_asgi_app__(self) -> FastAPI:
        return make_app(self._service, search=self.search, allowed_hosts=self._allowed_hosts)

    async def search(self, request: SearchRequest) -> Answer:
        """One request, answered together with those that came at the same time.

        Raises:
            ApiError: too many wait, or it took too long.
        """
        if self._num_waiting >= self._max_waiting:
            raise busy("searches", self._num_waiting)
        self._num_waiting += 1
        try:
            return await asyncio.wait_for(self._with_others[request.rerank_top > 0](request), self._timeout_s)
        except TimeoutError:
            raise too_slow("search result", self._timeout_s) from None
        finally:
            self._num_waiting -= 1

    @serve.batch  # pyright: ignore[reportCallIssue, reportArgumentType]
    async def search_batch(self, requests: list[SearchRequest]) -> Sequence[Answer]:
        """Answers in the order of requests; the event loop goes on meanwhile."""
        return await self._answer(requests, judges=False)

    @serve.batch  # pyright: ignore[reportCallIssue, reportArgumentType]
    async def judge_batch(self, requests: list[SearchRequest]) -> Sequence[Answer]:
        """The same for requests with a second stage."""
        return await self._answer(requests, judges=True)

    async def _answer(self, requests: list[SearchRequest], *, judges: bool) -> Sequence[Answer]:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads[judges], self._service.answer, requests)


def build(
    source: Source,
    *,
    allowed_hosts: Sequence[str],
    num_replicas: int,
    cpus: float,
    gpus: float,
    num_threads: int,
    metrics_folder: str,
) -> Application:
    """The application, to be run by Ray Serve."""
    deployment = serve.deployment(
        SearchReplica,
        name="search",
        num_replicas=num_replicas,
        ray_actor_options={
            "num_cpus": cpus,
            "num_gpus": gpus,
            "runtime_env": {"env_vars": {FOLDER: metrics_folder, "OMP_NUM_THREADS": str(num_threads)}},
        },
        max_ongoing_requests=MAX_ONGOING,
        max_queued_requests=MAX_QUEUED,
        graceful_shutdown_wait_loop_s=0.5,
        graceful_shutdown_timeout_s=DRAIN_S,
        health_check_period_s=HEALTH_S,
        max_constructor_retry_count=3,
        logging_config=QUIET,
    )
    return deployment.bind(source, num_threads, allowed_hosts)


def start(application: Application, *, host: str, port: int) -> None:
    """Listen, and return once all replicas are ready.

    Raises:
        ValueError: the cluster serves another application already, at another address.
        RuntimeError: the port is taken, or a replica does not start.
    """
    options = HTTPOptions(host=host, port=port, request_timeout_s=REQUEST_TIMEOUT_S)
    running = _get_global_client(raise_if_no_controller_running=False)
    # Serve listens at one address, and keeps it whatever a later application asks for.
    if running and (there := (running.http_config.host, running.http_config.port)) != (host, port):
        raise ValueError(
            f"got --host {host} --port {port} on a cluster whose Ray Serve listens at {there[0]} port {there[1]}; "
            "give that address, if everybody who reaches it may search, or end the other application"
        )
    serve.start(proxy_location="HeadOnly", http_options=options, logging_config=QUIET)
    serve.run(application, name=APP, route_prefix="/")


def stop() -> None:
    """Take no more requests, answer those that came, and end Serve unless others run applications under it."""
    others = serve.status().applications.keys() - {APP}
    serve.delete(APP)
    if not others:
        serve.shutdown()


def metrics_folder() -> str:
    """A new place for the figures of replicas; each makes it on its own machine."""
    return str(Path(tempfile.gettempdir()) / f"fpig-serve-{os.getpid()}")
