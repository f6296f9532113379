"""What lies below a folder, told object by object, where fsspec's ``find`` holds all of it: about 1.5 KB an object."""

import os
from collections.abc import Callable, Iterator
from typing import Any


def found_below(filesystem: Any, root: str, *, attempt: Callable[..., Any]) -> Iterator[dict[str, Any]]:
    """fsspec's ``info`` (``name``, ``size``, mark) of each object below ``root``, which ends in a slash, in no order.

    Of a folder on a disk or in S3 one page at most stands in memory. Requests are made by ``attempt(call, …)``.
    """
    if "file" in filesystem.protocol:
        yield from _found_on_disk(filesystem, root)
    elif "s3" in filesystem.protocol:
        yield from _found_in_s3(filesystem, root, attempt)
    else:
        yield from attempt(filesystem.find, root, detail=True).values()


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


def _found_in_s3(filesystem: Any, root: str, attempt: Callable[..., Any]) -> Iterator[dict[str, Any]]:
    bucket, prefix, _ = filesystem.split_path(root)
    wanted, after = {"Bucket": bucket, "Prefix": prefix}, {}
    while after is not None:
        page = attempt(filesystem.call_s3, "list_objects_v2", **wanted, **after)
        for info in page.get("Contents", ()):
            yield {**info, "name": f"{bucket}/{info['Key']}", "size": info["Size"]}
        after = {"ContinuationToken": page["NextContinuationToken"]} if page.get("IsTruncated") else None
