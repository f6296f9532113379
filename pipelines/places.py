"""Where workers find things: URLs that mean the same on every process, and local copies of remote model bundles."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from fpig_core.bundle import CONFIG, WEIGHTS
from pipelines import storage
from pipelines.storage import absolute as absolute

ORIGIN = "training.json"
"""Beside a bundle: how its training chose it, if it comes from a training run."""


@contextlib.contextmanager
def local_bundle(url: str) -> Iterator[Path]:
    """Folder of a model bundle on this machine; the files of a remote one are copied and removed at the end.

    Raises:
        ValueError: no bundle there.
    """
    if "://" not in url or url.startswith("file://"):
        yield Path(url.removeprefix("file://"))
        return
    with tempfile.TemporaryDirectory(prefix="fpig-bundle-") as folder:
        for name in (CONFIG, WEIGHTS):
            _download(storage.join(url, name), Path(folder) / name)
        if storage.exists(storage.join(url, ORIGIN)):
            _download(storage.join(url, ORIGIN), Path(folder) / ORIGIN)
        yield Path(folder)


def _download(url: str, target: Path) -> None:
    try:
        with target.open("wb") as sink:
            for chunk in storage.read_chunks(url):
                sink.write(chunk)
    except FileNotFoundError:
        raise ValueError(f"got no model file {url}; wanted a bundle as written by training") from None
