"""What lies below a folder, told object by object, where fsspec's ``find`` holds all of it: about 1.5 KB an object."""

import os
from collections.abc import Iterator
from typing import Any

from pipelines.object_store import ObjectStore


def found_below(filesystem: Any, root: str) -> Iterator[dict[str, Any]]:
    """fsspec's ``info`` (``name``, ``size``, mark) of each object below ``root``, which ends in a slash, in no order.

    Of a folder on a disk or in S3 one page at most stands in memory.
    """
    if isinstance(filesystem, ObjectStore):
        yield from filesystem.found_below(root)
    elif "file" in filesystem.protocol:
        yield from _found_on_disk(filesystem, root)
    else:
        yield from filesystem.find(root, detail=True).values()


def _found_on_disk(filesystem: Any, folder: str) -> Iterator[dict[str, Any]]:
    try:
        entries = os.scandir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return
    with entries:
        for entry in entries:
            try:
                info = filesystem.info(entry)
            except FileNotFoundError:
                continue  # another writer's draft that is gone
            if info["type"] == "directory":
                yield from _found_on_disk(filesystem, entry.path)
            else:
                yield info
