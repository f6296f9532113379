"""Real servers for tests, on loopback, each in a process group of its own that ends with the test."""

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import boto3
import pytest
import requests
from s3fs import S3FileSystem

from pipelines.object_store import ObjectStore

BIN = Path(sys.executable).parent
BUCKET = "fpig-test"
LOOPBACK = "127.0.0.2"  # Ray replaces 127.0.0.1 by the address of a network card


@dataclass(frozen=True, kw_only=True)
class RayHead:
    """A running Ray cluster with token authentication; ``env`` is what a client with the token needs."""

    address: str
    dashboard: str
    env: dict[str, str]


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, below those the system hands to clients."""
    held: list[socket.socket] = []
    with contextlib.ExitStack() as stack:
        while len(held) < count:
            with contextlib.suppress(OSError):
                port = 20000 + secrets.randbelow(10000)
                held.append(stack.enter_context(socket.create_server(("127.0.0.1", port))))
        return [server.getsockname()[1] for server in held]


@contextlib.contextmanager
def running(
    command: Sequence[str], *, env: dict[str, str], log: Path, ready: Callable[[], bool], limit_s: float = 60
) -> Iterator[subprocess.Popen]:
    """Run ``command`` until the block ends; the block starts once ``ready()`` holds.

    Raises:
        RuntimeError: the server ended, or was not ready in time; with the end of its log.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=env, stdout=output, stderr=output, start_new_session=True)
    try:
        deadline = time.monotonic() + limit_s
        while not ready():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command[0]} did not become ready: {log.read_text()[-2000:]}")
            time.sleep(0.1)
        yield process
    finally:
        end_group(process)


def end_group(process: subprocess.Popen) -> None:
    """Ask the whole process group to end, and insist after ten seconds."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=10)


def answers(url: str, *, status: Sequence[int] = (200,)) -> Callable[[], bool]:
    """A probe: whether ``url`` answers with one of ``status``."""

    def probe() -> bool:
        try:
            return requests.get(url, timeout=2).status_code in status
        except requests.RequestException:
            return False

    return probe


@contextlib.contextmanager
def moto_server(log: Path) -> Iterator[dict[str, str]]:
    """An S3 server in memory with one bucket, ``BUCKET``; yields the environment that leads to it."""
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    command = [str(BIN / "moto_server"), "-H", "127.0.0.1", "-p", str(port)]
    with running(command, env=dict(os.environ), log=log, ready=answers(f"{url}/moto-api/")):
        env = s3_env(url, key="test", secret="test")  # noqa: S106 - the server takes any
        make_bucket(env)
        yield env


def s3_env(url: str, *, key: str, secret: str) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": key,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_DEFAULT_REGION": "us-east-1",
    }


def use_s3(env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    """Let this process, and those it starts, find the server of ``env`` -> the URL of its bucket."""
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    for client in (S3FileSystem, ObjectStore):
        client.clear_instance_cache()  # a cached client stays with the server it was made for
    return f"s3://{BUCKET}"


def make_bucket(env: dict[str, str]) -> None:
    client = boto3.client(
        "s3",
        endpoint_url=env["AWS_ENDPOINT_URL"],
        aws_access_key_id=env["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=env["AWS_SECRET_ACCESS_KEY"],
        region_name=env["AWS_DEFAULT_REGION"],
    )
    client.create_bucket(Bucket=BUCKET)


@contextlib.contextmanager
def ray_head(folder: Path, *, num_cpus: int = 8, more_env: Mapping[str, str] | None = None) -> Iterator[RayHead]:
    """A Ray cluster of one node that demands a token, beside any other Ray on this machine.

    ``folder`` must have a short path: Ray's sockets live below it. ``more_env``: variables for all of its processes.
    """
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    path = f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}"  # jobs say python
    env = {**clean, "PATH": path, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)} | dict(more_env or {})
    port, dashboard, agent, agent_grpc, metrics, client = free_ports(6)
    command = [str(BIN / "ray"), "start", "--head", "--block", f"--node-ip-address={LOOPBACK}", f"--port={port}"]
    command += ["--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", f"--num-cpus={num_cpus}"]
    command += [f"--dashboard-agent-listen-port={agent}", f"--dashboard-agent-grpc-port={agent_grpc}"]
    command += [f"--metrics-export-port={metrics}", f"--ray-client-server-port={client}", f"--temp-dir={folder}"]
    command += ["--object-store-memory=500000000", "--disable-usage-stats"]
    head = RayHead(address=f"{LOOPBACK}:{port}", dashboard=f"http://127.0.0.1:{dashboard}", env=env)
    # Without the token the dashboard must refuse: 401 is its sign of life.
    with running(
        command, env=env, log=folder / "head.log", ready=answers(f"{head.dashboard}/api/version", status=(401,))
    ):
        yield head


@contextlib.contextmanager
def ray_node(folder: Path, head: RayHead, *, num_cpus: int = 1) -> Iterator[subprocess.Popen]:
    """A node more for the cluster of ``head``, as a process group of its own; it joins some seconds later."""
    agent, agent_grpc, metrics, runtime_env = free_ports(4)
    command = [str(BIN / "ray"), "start", "--block", f"--address={head.address}", f"--node-ip-address={LOOPBACK}"]
    command += [f"--num-cpus={num_cpus}", "--object-store-memory=200000000", "--disable-usage-stats"]
    command += [f"--dashboard-agent-listen-port={agent}", f"--dashboard-agent-grpc-port={agent_grpc}"]
    command += [f"--metrics-export-port={metrics}", f"--runtime-env-agent-port={runtime_env}"]
    log = folder / f"node-{agent}.log"
    started = "Ray runtime started"
    with running(command, env=head.env, log=log, ready=lambda: started in log.read_text(), limit_s=300) as process:
        yield process
