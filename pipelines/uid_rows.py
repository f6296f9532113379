"""Find rows of a manifest by uid."""

import re
from typing import Any

import numpy as np

from pipelines.manifest import Manifest
from pipelines.manifest_file import is_ok

_UID = re.compile(r"[0-9a-f]{32}")


class UidRows:
    """The usable rows of a manifest by uid: 16 bytes of memory a row, and a row group read when a row is asked for."""

    def __init__(self, manifest: Manifest) -> None:
        heads, numbers, start = [np.empty(0, np.uint64)], [np.empty(0, np.int64)], 0
        for rows in manifest.batches(["uid", "status"]):
            usable = np.flatnonzero(is_ok(rows))
            digests = bytes.fromhex("".join(rows["uid"].take(usable).to_pylist()))
            heads.append(np.frombuffer(digests, ">u8")[::2].astype(np.uint64))
            numbers.append(start + usable)
            start += rows.num_rows
        head, number = np.concatenate(heads), np.concatenate(numbers)
        order = np.argsort(head, kind="stable")
        self._manifest, self._head, self._number = manifest, head[order], number[order]

    def __len__(self) -> int:
        return len(self._head)

    def find(self, uid: str) -> dict[str, Any] | None:
        """The row of this uid, None if there is none or its sample was rejected when it was indexed."""
        if not _UID.fullmatch(uid):
            return None
        head = np.uint64(int(uid[:16], 16))
        first, last = np.searchsorted(self._head, head), np.searchsorted(self._head, head, side="right")
        rows = self._manifest.take(self._number[first:last]).to_pylist()
        return next((row for row in rows if row["uid"] == uid), None)
