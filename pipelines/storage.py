"""Files and objects by URL: local paths, ``s3://`` and ``memory://``, all through fsspec.

Writes appear whole or not at all. Reads ask for exact ranges. ``object_store`` has the patience with S3.
"""

import contextlib
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from fsspec.core import url_to_fs

from pipelines.listing import found_below
from pipelines.object_store import ObjectStore, connect

SCHEMES = ("", "file", "s3", "memory")
_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]+):")
_RANGE_BYTES = 8 << 20
_DRAFT = ".draft-"


def check_url(url: str) -> None:
    """Raise ValueError unless ``url`` is a plain path or an URL of an allowed scheme."""
    if not url or "\0" in url:
        raise ValueError(f"got the location {url!r}, wanted a path or an URL such as s3://bucket/folder")
    found = _SCHEME.match(url)
    scheme = found[1].lower() if found else ""
    if scheme not in SCHEMES or "::" in url or (scheme and not url[len(scheme) :].startswith("://")):
        raise ValueError(
            f"got {url!r}, wanted a path, file://, s3:// or memory://; "
            "copy the data to one of these (a local name with a colon needs ./ in front)"
        )


def absolute(url: str) -> str:
    """``url``, with a relative path made absolute: workers have another current folder."""
    check_url(url)
    return url if "://" in url else os.path.abspath(url)


def join(url: str, *parts: str) -> str:
    """``url`` and ``parts`` with one slash between them."""
    if not parts:
        return url
    base = url if url.endswith("://") else url.rstrip("/") or "/"
    tail = "/".join(part.strip("/") for part in parts)
    return base + tail if base.endswith("/") else f"{base}/{tail}"


def parent(url: str) -> str:
    """The folder that holds ``url``."""
    head, slash, _ = url.rstrip("/").rpartition("/")
    return head or slash or "."


def relative(url: str, folder_url: str) -> str:
    """``url`` as seen from a folder above it: ``join(folder_url, relative(url, folder_url)) == url``."""
    base = join(folder_url, "")
    assert url.startswith(base), (url, folder_url)
    return url[len(base) :]


def exists(url: str) -> bool:
    filesystem, path = _resolve(url)
    return filesystem.exists(path)


def size(url: str) -> int:
    """Bytes of one object. Raises FileNotFoundError."""
    filesystem, path = _resolve(url)
    return int(filesystem.info(path)["size"])


def read_bytes(url: str, *, start: int = 0, length: int | None = None) -> bytes:
    """The object, or its bytes [start, start + length); fewer where the object ends before.

    Raises:
        FileNotFoundError: no such object.
        OSError: the store refuses, or does not answer also after retries.
    """
    filesystem, path = _resolve(url)
    stop = None if length is None else start + length
    if isinstance(filesystem, ObjectStore):
        return b"".join(filesystem.read_pieces(path, start=start, stop=stop))
    return filesystem.cat_file(path, start=start, end=stop) if length != 0 else b""


@contextlib.contextmanager
def reading(url: str) -> Iterator[Callable[[int, int], bytes]]:
    """``read(start, length)`` for many ranges of one object: ``read_bytes``, and straight from the file if it is local.

    Raises:
        FileNotFoundError: no such object; a store tells it at the first read.
    """
    path = local_path(url)
    if path is None:
        yield lambda start, length: read_bytes(url, start=start, length=length)
        return
    with open(path, "rb", buffering=0) as file:
        yield lambda start, length: _pread(file.fileno(), start, length)


def local_path(url: str) -> str | None:
    """The path of a local file, None for an object of a store."""
    filesystem, path = _resolve(url)
    return path if _is_local(filesystem) else None


def _pread(descriptor: int, start: int, length: int) -> bytes:
    data = os.pread(descriptor, length, start)
    if len(data) in (0, length):
        return data
    # The kernel gives less at the end of the file, and never more than 2 GiB at once.
    return data + _pread(descriptor, start + len(data), length - len(data))


def read_chunks(url: str, *, chunk_bytes: int = _RANGE_BYTES) -> Iterator[bytes]:
    """The object front to back in ranges of ``chunk_bytes``, in bounded memory; each range is retried by itself.

    Raises:
        OSError: as ``read_bytes``, and if an object of a store was written anew in the meantime.
    """
    filesystem, path = _resolve(url)
    if isinstance(filesystem, ObjectStore):
        yield from filesystem.read_pieces(path, piece_bytes=chunk_bytes)
        return
    total = size(url)
    for start in range(0, total, chunk_bytes):
        yield read_bytes(url, start=start, length=min(chunk_bytes, total - start))


def write_bytes(url: str, data: bytes) -> None:
    """Write a whole object at once: readers see the old one or the new one, never a part."""
    filesystem, path = _resolve(url)
    if not _is_local(filesystem):
        filesystem.pipe_file(path, data)
        return
    with _replacing(path) as draft:
        draft.write(data)


def require_writable(url: str) -> None:
    """Write and remove a small object under ``url``, so that a missing bucket or right is found before the work.

    Raises:
        ValueError: it cannot be done.
    """
    probe = join(url, f"probe-{uuid.uuid4().hex}")
    try:
        write_bytes(probe, b"probe")
        filesystem, path = _resolve(probe)
        filesystem.rm_file(path)
    except OSError as error:
        raise ValueError(
            f"cannot write to {url} ({type(error).__name__}: {error}); does the bucket or folder exist, and may these "
            f"credentials write there? python -m jobs.doctor --storage {url} tells more"
        ) from None


def upload(local_path: str | Path, url: str) -> None:
    """Copy a local file to ``url`` in bounded memory; it appears at once."""
    filesystem, path = _resolve(url)
    if not _is_local(filesystem):
        filesystem.put_file(str(local_path), path)
        return
    with open(local_path, "rb") as source, _replacing(path) as draft:
        while chunk := source.read(_RANGE_BYTES):
            draft.write(chunk)


@contextlib.contextmanager
def writing(url: str) -> Iterator[IO[bytes]]:
    """A file to write an object of any size into; it appears at ``url`` at once, when the block ends well."""
    filesystem, path = _resolve(url)
    if _is_local(filesystem):
        with _replacing(path) as draft:
            yield draft
        return
    with tempfile.TemporaryDirectory(prefix="fpig-draft-") as folder:
        local_path = Path(folder) / "draft"
        with open(local_path, "wb") as draft:
            yield draft
        filesystem.put_file(str(local_path), path)


def copy(source_url: str, url: str) -> None:
    """Copy an object of any size in bounded memory, inside its store if it stays there; it appears at once."""
    (source_store, source), (store, path) = _resolve(source_url), _resolve(url)
    if source_store is store and isinstance(store, ObjectStore):
        store.cp_file(source, path)
        return
    with writing(url) as sink:
        for chunk in read_chunks(source_url):
            sink.write(chunk)


def remove(url: str) -> None:
    """Remove one object; it is no error if it is gone already."""
    filesystem, path = _resolve(url)
    with contextlib.suppress(FileNotFoundError):
        filesystem.rm_file(path)


def remove_drafts(url: str) -> None:
    """Remove what killed writers have left in a local folder. A writer that still lives there fails."""
    filesystem, path = _resolve(url)
    for folder in Path(path).rglob(f"{_DRAFT}*") if _is_local(filesystem) else ():
        shutil.rmtree(folder, ignore_errors=True)


def list_files(url: str, *, suffix: str = "") -> list[str]:
    """All objects under a folder, at any depth, whose name ends in ``suffix``: sorted, [] without a folder."""
    return sorted(found for found, _ in iter_stamps(url) if found.endswith(suffix))


def list_stamps(url: str) -> dict[str, tuple[int, str]]:
    """What ``list_files`` lists, with the bytes of each object and a mark that changes when its content does."""
    return dict(sorted(iter_stamps(url)))


def iter_stamps(url: str) -> Iterator[tuple[str, tuple[int, str]]]:
    """The same as the store tells it, in no order: of a folder in S3 or on a disk a page at most stands in memory."""
    filesystem, path = _resolve(url)
    root = path.rstrip("/") + "/"
    for info in found_below(filesystem, root):
        name = info["name"]
        if name.startswith(root) and not name.endswith("/") and _DRAFT not in name:
            yield join(url, name[len(root) :]), _stamp(info)


def stamp(url: str) -> tuple[int, str] | None:
    """What ``list_stamps`` tells of one object, None if there is none or it is a folder."""
    filesystem, path = _resolve(url)
    try:
        info = filesystem.info(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return None if info["type"] == "directory" else _stamp(info)


def _stamp(info: dict[str, Any]) -> tuple[int, str]:
    return int(info["size"]), str(info.get("ETag") or info.get("mtime") or "")


def _resolve(url: str) -> tuple[Any, str]:
    check_url(url)
    if url[:5].lower() == "s3://":
        store = connect()
        return store, str(store._strip_protocol(url))
    return url_to_fs(url)


def _is_local(filesystem: Any) -> bool:
    return "file" in filesystem.protocol


@contextlib.contextmanager
def _replacing(path: str) -> Iterator[IO[bytes]]:
    """A temporary file beside ``path`` that takes its place when the block ends well."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=_DRAFT) as folder:
        draft = Path(folder) / "draft"
        with open(draft, "wb") as sink:
            yield sink
            sink.flush()
            os.fsync(sink.fileno())
        os.replace(draft, target)
