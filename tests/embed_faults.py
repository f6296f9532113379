"""Faults inside the processes of an embedding: each kills its own process with SIGKILL, once, at a chosen place.

A job of Ray calls ``install`` in each of its worker processes (``worker_process_setup_hook``). Where a process dies is
a function of the seed and of what it is doing; that it died there is a file in a folder, so that the next try passes.
"""

import hashlib
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipelines import embed_stages, encode, storage

VARIABLES = ("FPIG_FAULT_SEED", "FPIG_FAULT_SHARE", "FPIG_FAULT_FOLDER")
PLACES = ("decode", "model", "quarantine", "between", "answer")
"""Decoding a batch, embedding it, before the quarantine file, between the two files of a part, after both."""


def settings(folder: Path, *, seed: int, share: float) -> dict[str, str]:
    """The environment of a job that loses a process at this share of all places where it may."""
    folder.mkdir(exist_ok=True)
    return dict(zip(VARIABLES, (str(seed), str(share), str(folder)), strict=True))


def deaths(folder: Path) -> list[str]:
    """Where processes died, by name of the place."""
    return sorted(file.name.partition("-")[0] for file in folder.iterdir())


def install() -> None:
    """Spoil this process."""
    read, write, call = embed_stages.read_videos, storage.write_bytes, encode.EncodeVideos.__call__

    def read_videos(manifest: Any, samples: Any, **options: Any) -> Any:
        _die("decode", str(samples[0]["uid"]))
        return read(manifest, samples, **options)

    def write_bytes(url: str, data: bytes) -> None:
        folder, name = url.rsplit("/", 2)[-2:]
        _die("quarantine" if folder == "quarantine" else "between", name)
        write(url, data)
        if folder == "parts":
            _die("answer", name)

    def encode_batch(self: Any, batch: Any) -> Any:
        _die("model", str(batch["row"][0]))
        return call(self, batch)

    embed_stages.read_videos = read_videos
    storage.write_bytes = write_bytes
    _replace(encode.EncodeVideos, encode_batch)


def _replace(kind: type, function: Callable[..., Any]) -> None:
    kind.__call__ = function


def _die(place: str, what: str) -> None:
    seed, share, folder = (os.environ[name] for name in VARIABLES)
    digest = hashlib.sha256(f"{seed} {place} {what}".encode()).hexdigest()
    if int(digest[:8], 16) / 2**32 >= float(share):
        return
    try:
        (Path(folder) / f"{place}-{digest[:16]}").touch(exist_ok=False)
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)
