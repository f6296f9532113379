"""What ``jobs.doctor`` checks: this machine first, then the services. Nothing here prints."""

import dataclasses
import importlib
import importlib.metadata
import io
import json
import os
import platform
import queue
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import tomllib
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import av
import fsspec
import numpy as np
import psutil
import torch
from packaging.requirements import Requirement
from ray.exceptions import RayError
from ray.job_submission import JobSubmissionClient

from pipelines import storage

LIMIT_S = 60
SECRETS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "MLFLOW_TRACKING_PASSWORD")
SECRETS += ("MLFLOW_TRACKING_TOKEN", "RAY_AUTH_TOKEN")
GIB = 2**30
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where Ray keeps its object store
ASK_RAY = "import json, os, ray; ray.init(os.environ['RAY_ADDRESS']); print(json.dumps(ray.cluster_resources()))"


@dataclasses.dataclass(frozen=True)
class Finding:
    """What one check saw; ``remedy`` tells what to do unless ``state`` is ok."""

    state: Literal["ok", "warn", "fail"]
    found: str
    remedy: str = ""


def bounded(check: Callable[[], Finding], *, limit_s: float = LIMIT_S) -> Finding:
    """The check's finding, or a failure if it raises or has not answered after ``limit_s`` seconds."""
    answers: queue.SimpleQueue[Finding] = queue.SimpleQueue()

    def work() -> None:
        try:
            answers.put(check())
        except Exception as error:  # whatever goes wrong in a check is its finding
            answers.put(Finding("fail", hide_secrets(f"{type(error).__name__}: {error}"), "mend what this names"))

    threading.Thread(target=work, daemon=True).start()
    try:
        return answers.get(timeout=limit_s)
    except queue.Empty:
        return Finding("fail", f"no answer within {limit_s:g} s", "see whether the service hangs or a firewall drops")


def hide_secrets(text: str) -> str:
    """``text`` on one line, without the credentials that the environment holds."""
    for name in SECRETS:
        if secret := os.environ.get(name):
            text = text.replace(secret, f"<{name}>")
    line = " ".join(text.split())
    return line if len(line) <= 200 else f"{line[:200]} …"


def hide_user(url: str) -> str:
    """``url`` without user, password and query."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()


def declared() -> tuple[str, list[Requirement]]:
    """Python version and packages the project asks for: of the working tree, else of the installation."""
    path = Path(__file__).parent.parent / "pyproject.toml"
    if path.exists():
        project = tomllib.loads(path.read_text())["project"]
        return project["requires-python"], [Requirement(line) for line in project["dependencies"]]
    lines = importlib.metadata.requires("fpig") or []
    python = importlib.metadata.metadata("fpig")["Requires-Python"]
    return python, [wanted for wanted in map(Requirement, lines) if not wanted.marker]


def check_python() -> Finding:
    wanted = declared()[0]
    if Requirement(f"python{wanted}").specifier.contains(platform.python_version()):
        return Finding("ok", platform.python_version())
    return Finding(
        "fail", f"{platform.python_version()}, wanted {wanted}", "make setup PYTHON=/path/to/a/newer/python3"
    )


def check_packages() -> Finding:
    wrong, requirements = [], declared()[1]
    for wanted in requirements:
        try:
            version = importlib.metadata.version(wanted.name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{wanted.name} is missing")
            continue
        if not wanted.specifier.contains(version, prereleases=True):
            wrong.append(f"{wanted.name} {version}, wanted {wanted.specifier}")
    if wrong:
        return Finding("fail", "; ".join(wrong), "pip install -c requirements.lock -e .")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("ray", "torch", "deepspeed"))
    return Finding("ok", f"all {len(requirements)} new enough: {versions}")


def check_processors() -> Finding:
    cpus, memory = len(os.sched_getaffinity(0)), psutil.virtual_memory().total / GIB
    found = f"{cpus} CPUs, {memory:.0f} GiB of memory"
    if memory < 6:
        return Finding("warn", found, "Ray and two workers with torch want 6 GiB; take fewer workers")
    return Finding("ok", found)


def check_gpu() -> Finding:
    if not torch.cuda.is_available():
        return Finding("ok", "none: training and embedding run on the CPU")
    devices = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    found = ", ".join(f"{device.name} ({device.total_memory / GIB:.0f} GiB)" for device in devices)
    if not torch.cuda.is_bf16_supported(including_emulation=False):
        return Finding("warn", f"{found}, no bf16", "train in float32: bf16 needs compute capability 8.0")
    return Finding("ok", f"{found}, bf16")


def check_shared_memory() -> Finding:
    if not SHARED_MEMORY.is_dir():
        return Finding("warn", f"no {SHARED_MEMORY}", "Ray falls back to files in /tmp, which are slower")
    total, memory = shutil.disk_usage(SHARED_MEMORY).total, psutil.virtual_memory().total
    found = f"{SHARED_MEMORY} has {total / GIB:.1f} GiB"
    if total < 0.3 * memory:
        remedy = f"give it {0.3 * memory / GIB:.0f} GiB (docker --shm-size, or an emptyDir of medium Memory)"
        return Finding("warn", found, remedy)
    return Finding("ok", found)


def check_disk() -> Finding:
    usage = shutil.disk_usage(tempfile.gettempdir())
    found = f"{usage.free / GIB:.0f} GiB of {usage.total / GIB:.0f} GiB free under {tempfile.gettempdir()}"
    if usage.free < 0.05 * usage.total:
        return Finding("fail", found, "free some: Ray refuses new objects on a disk that is 95 % full")
    if usage.free < 10 * GIB:
        return Finding("warn", found, "Ray spills what does not fit in memory there; 10 GiB are comfortable")
    return Finding("ok", found)


def check_video() -> Finding:
    """Encode a few frames as H.264 and decode them again."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as out:
        stream = out.add_stream("libx264", rate=8)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for value in (0, 128, 255):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), value, np.uint8), format="rgb24")
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    file.seek(0)
    with av.open(file, "r", format="mp4") as video:
        num_frames = sum(1 for _ in video.decode(video=0))
    if num_frames != 3:
        return Finding("fail", f"{num_frames} of 3 H.264 frames came back", "pip install --force-reinstall av")
    return Finding("ok", f"PyAV {av.__version__} encodes and decodes H.264")


def check_deepspeed() -> Finding:
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")
    return Finding("ok", f"DeepSpeed {importlib.import_module('deepspeed').__version__} imports")


def check_ray_token() -> Finding:
    if os.environ.get("RAY_AUTH_TOKEN"):
        return Finding("ok", "in RAY_AUTH_TOKEN")
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    if not path.exists():
        return Finding("ok", "none: enough for a Ray on this machine, which makes its own")
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        return Finding("warn", f"others can read {path}", f"chmod 600 {path}")
    return Finding("ok", f"in {path}")


def check_storage(url: str) -> Finding:
    shown, scheme = hide_user(url), urlsplit(url).scheme
    try:
        storage.check_url(url)
    except ValueError as error:
        return Finding("fail", hide_secrets(str(error).replace(url, shown)), "use a path or s3://bucket/folder")
    options = {}
    if scheme == "s3":
        limits = {"connect_timeout": 5, "read_timeout": 10, "retries": {"max_attempts": 1}}
        options = {"config_kwargs": limits, "skip_instance_cache": True}
    system, folder = fsspec.url_to_fs(url, **options)
    probe, data = f"{folder.rstrip('/')}/fpig-doctor-{uuid.uuid4().hex}", b"probe"
    try:
        if scheme != "s3":
            system.makedirs(folder, exist_ok=True)
        system.pipe_file(probe, data)
        same = system.cat_file(probe) == data
        system.rm_file(probe)
    except Exception as error:  # every store has its own errors
        remedy = "check that the folder is writable"
        if scheme == "s3":
            remedy = "check the bucket, AWS_ENDPOINT_URL, the region and the credentials or the instance's role"
        return Finding("fail", hide_secrets(f"{shown}: {type(error).__name__}: {error}"), remedy)
    if not same:
        return Finding("fail", f"{shown} returned other bytes than were written", "do not use this store")
    return Finding("ok", f"{shown} takes, returns and removes an object")


def check_tracking(uri: str) -> Finding:
    shown = hide_user(uri)
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists():
        return Finding("ok", f"{shown} does not exist yet; the first run makes it")
    # Ahead of the import: MLflow's own limits keep a caller for minutes.
    os.environ.update(MLFLOW_HTTP_REQUEST_TIMEOUT="5", MLFLOW_HTTP_REQUEST_MAX_RETRIES="0")
    client = importlib.import_module("mlflow").MlflowClient(tracking_uri=uri)
    try:
        client.search_experiments(max_results=1)
    except Exception as error:  # connection, authentication and database errors share no base
        remedy = "start it (docs/operations.md), or check MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        return Finding("fail", hide_secrets(f"{shown}: {type(error).__name__}: {error}".replace(uri, shown)), remedy)
    return Finding("ok", f"{shown} answers")


def check_ray(address: str) -> Finding:
    try:
        if address.startswith(("http://", "https://")):
            JobSubmissionClient(address).get_version()
            return Finding("ok", f"{address} answers")
        found = ask_ray_head(address)
    except (OSError, RuntimeError, RayError, subprocess.TimeoutExpired) as error:
        detail = hide_secrets(str(error))
        if "authentication" in detail.lower():
            detail, remedy = "the cluster demands another token", "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH=FILE"
        else:
            remedy = "start it, or open the tunnel to it (docs/operations.md)"
        return Finding("fail", f"{address}: {detail}", remedy)
    return Finding("ok", f"{address} answers, {found}")


def ask_ray_head(address: str) -> str:
    """The resources of the cluster at ``address``. Another process asks: Ray may end the one that fails.

    Raises:
        OSError: nobody listens there.
        RuntimeError: the head refused; with the last line of its complaint.
        subprocess.TimeoutExpired: the head does not answer.
    """
    host, colon, port = address.rpartition(":")
    if colon:
        socket.create_connection((host, int(port)), timeout=5).close()
    command, env = [sys.executable, "-c", ASK_RAY], {**os.environ, "RAY_ADDRESS": address}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=LIMIT_S - 10)
    if done.returncode:
        refused = "AuthenticationError" in done.stderr
        raise RuntimeError("authentication failed" if refused else done.stderr.strip().rpartition("\n")[2])
    resources = json.loads(done.stdout.splitlines()[-1])
    return f"{resources.get('CPU', 0):g} CPUs, {resources.get('GPU', 0):g} GPUs"
