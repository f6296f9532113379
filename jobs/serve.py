"""``serve``: answer searches over HTTP, with a page to search and watch, by Ray Serve."""

import dataclasses
import errno
import os
import shutil
import socket
import time
from typing import Any

import ray
from ray.serve.deployment import Application
from rich.console import Console

from cluster.session import connect, require_resources
from cluster.tracking import NO_TRACKING
from jobs.cli import STOPPED, Report, launch, stop_signals
from jobs.serving.deployment import APP, build, metrics_folder, start, stop
from jobs.serving.limits import ServeLimits
from jobs.serving.service import Source
from pipelines import storage

EXAMPLE = "python -m jobs.serve --corpus runs/demo/corpus"
TICK_S = 0.5
LOOPBACK = {"127.0.0.1": "127.0.0.1", "localhost": "localhost", "::1": "[::1]"}
"""Names of this machine for itself, and how a Host header says them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Args:
    """Answer searches until SIGTERM or Ctrl-C: a page at /, POST /search, /healthz, /metrics.

    There is no password: it listens on this machine alone unless --host says otherwise.
    """

    corpus: str = ""
    """Folder or URL of a corpus: every video is compared."""
    index: str = ""
    """Folder or URL of an index of a corpus, in its place."""
    model: str = ""
    """Model bundle; by default where it was when it embedded the corpus."""
    manifest: str = ""
    """Manifest with the videos; by default the one that the corpus was made from."""
    tracking: str = NO_TRACKING
    """MLflow tracking URI, for a model given as runs:/… or models:/…"""
    host: str = "127.0.0.1"
    """Address to listen on. Everybody who reaches it may search, and watch every video."""
    port: int = 8000
    """Port to listen on."""
    allowed_hosts: tuple[str, ...] = ()
    """Names that it may be called by (the Host header), or *; by default any, but on loopback only loopback's: pages of
    strangers could otherwise give it a name of theirs, and read what it answers."""
    replicas: int = 1
    """Processes that answer, each with the whole model and index."""
    cpus: float = 0.5
    """CPUs that Ray reserves for each."""
    gpus: float = 0.0
    """GPUs that Ray reserves for each."""
    threads: int = 1
    """Threads of a search."""
    limits: ServeLimits = ServeLimits()
    json: str = ""
    """Write the result to this file, when it ends."""

    def __post_init__(self) -> None:
        if bool(self.corpus) == bool(self.index):
            raise ValueError("got both or none of --corpus and --index, wanted one of them")
        if not 1 <= self.port <= 65535:
            raise ValueError(f"got port={self.port}, wanted 1 to 65535")
        if wrong := [name for name in self.allowed_hosts if "*" in name.removeprefix("*.") and name != "*"]:
            raise ValueError(f"got --allowed-hosts {wrong[0]}, wanted names, *.name or *")
        if self.replicas < 1 or self.threads < 1 or self.cpus <= 0 or self.gpus < 0:
            raise ValueError(
                f"got replicas={self.replicas}, threads={self.threads}, cpus={self.cpus}, gpus={self.gpus}; "
                "wanted at least one replica and thread, more than no CPU, and no fewer than no GPU"
            )

    @property
    def source(self) -> Source:
        """What replicas open; they run in other folders."""
        return Source(
            url=storage.absolute(self.corpus or self.index),
            model=self.model if ":/" in self.model or not self.model else storage.absolute(self.model),
            manifest=storage.absolute(self.manifest) if self.manifest else "",
            tracking=self.tracking,
            device="cuda" if self.gpus else "cpu",  # Ray hides no GPU from who reserves none
            limits=self.limits,
        )

    @property
    def hosts(self) -> tuple[str, ...]:
        """Names that requests may call the service by."""
        return self.allowed_hosts or (tuple(LOOPBACK.values()) if self.host in LOOPBACK else ("*",))

    def application(self) -> Application:
        """What Ray Serve runs."""
        return build(
            self.source,
            allowed_hosts=self.hosts,
            num_replicas=self.replicas,
            cpus=self.cpus,
            gpus=self.gpus,
            num_threads=self.threads,
            metrics_folder=metrics_folder(),
        )


def from_config(values: dict[str, Any]) -> Application:
    """The same from fields of ``Args`` in a config of Ray Serve (``cluster/manifests/rayservice-search.yaml``).

    It listens where that config says; ``host`` tells whether that is loopback.

    Raises:
        ValueError, TypeError: as ``Args``.
    """
    return Args(**values).application()


def main(args: Args) -> Report:
    console, begun = Console(), time.monotonic()
    about = dataclasses.replace(args.source, device="cpu").open().about()
    is_private = not os.environ.get("RAY_ADDRESS")
    require_free_port(args.host, args.port)
    connect()
    require_resources([{"CPU": args.cpus, "GPU": args.gpus}] * args.replicas, purpose=f"{args.replicas} replicas")
    with stop_signals("answering what has come; again to stop at once") as is_stopping:
        try:
            start(args.application(), host=args.host, port=args.port)
            address = f"http://{args.host}:{args.port}"
            text = f"{about['num_videos']} videos, model {about['model_id']}: {address}  (Ctrl-C ends it)"
            console.print(text, soft_wrap=True, highlight=False, markup=False)
            while not is_stopping():
                time.sleep(TICK_S)
            stop()
        finally:
            if is_private:
                ray.shutdown()
            shutil.rmtree(metrics_folder(), ignore_errors=True)
    summary = {name: about[name] for name in ("model_id", "num_videos", "method")}
    summary |= {"address": address, "replicas": args.replicas, "application": APP, "served_s": time.monotonic() - begun}
    return Report(title="Stopped on request", summary=summary, exit_code=STOPPED)


def require_free_port(host: str, port: int) -> None:
    """Find out early: Serve's proxy would share a port with a process that lets it.

    Raises:
        ValueError: somebody listens there, or this machine has no such address.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            probe.listen(1)
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        remedy = "end the process that listens there, or give another --port" if taken else "give another --host"
        raise ValueError(f"got --host {host} --port {port}, which cannot be listened on ({error}); {remedy}") from None


def cli() -> None:
    launch(Args, main, example=EXAMPLE)


if __name__ == "__main__":
    cli()
