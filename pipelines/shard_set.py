"""Shard sets that are written once and always the same: one task a shard, safe to kill and to run again.

A folder is tied to its inputs by ``_PLAN.json``, written first. Each shard leaves a receipt; the tar, which appears
whole and after its receipt, is the commit. ``_WRITTEN.json`` comes last and tells that all shards are there.
"""

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any, NamedTuple

from webdataset.writer import TarWriter

from pipelines import storage

PLAN_NAME, WRITTEN_NAME, RECEIPTS = "_PLAN.json", "_WRITTEN.json", "_receipts"
_NUM_READERS = 16


class Reject(NamedTuple):
    """A sample that was left out of a shard. ``reason`` is a reason code."""

    sample: str
    reason: str
    detail: str


class Sample(NamedTuple):
    """What goes into a shard under one key: bytes by suffix."""

    key: str
    members: dict[str, bytes]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardTask:
    """One shard to write. ``make`` can be pickled and gives the same samples whenever it is called.

    ``out_url`` is that of the set, and absolute: Ray's workers have another current folder.

    ``inputs`` names all that the shard depends on; ``num_bytes`` is what will be read for it.
    """

    out_url: str
    name: str
    inputs: str
    num_samples: int
    num_bytes: int
    make: Callable[[], Iterator[Sample | Reject]]

    def __post_init__(self) -> None:
        assert self.out_url == storage.absolute(self.out_url), self.out_url

    @property
    def url(self) -> str:
        return storage.join(self.out_url, self.name)

    @property
    def receipt_url(self) -> str:
        return storage.join(self.out_url, RECEIPTS, f"{self.name}.json")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Receipt:
    """What a shard turned out to be."""

    name: str
    inputs: str
    num_samples: int
    num_bytes: int
    sha256: str
    rejected: list[Reject]

    def to_json(self) -> bytes:
        return json.dumps(dataclasses.asdict(self), indent=1).encode() + b"\n"

    @classmethod
    def from_json(cls, data: bytes) -> "Receipt":
        fields = json.loads(data)
        return cls(**fields | {"rejected": [Reject(*reject) for reject in fields["rejected"]]})


@dataclasses.dataclass(frozen=True, kw_only=True)
class SetReport:
    """``written`` is False if the set was complete before."""

    num_samples: int
    num_shards: int
    num_bytes: int
    written: bool
    rejected: list[Reject]


def write_shard(task: ShardTask) -> Receipt:
    """Write one shard and its receipt; a second writer writes the same bytes."""
    rejected: list[Reject] = []
    num_samples = 0
    with storage.writing(task.url) as file:
        sink: Any = _Digesting(file)
        # No clock, user or machine in the bytes.
        with TarWriter(sink, encoder=False, mtime=0, user="", group="", format="PAX_FORMAT") as tar:
            for made in task.make():
                if isinstance(made, Reject):
                    rejected.append(made)
                else:
                    tar.write({"__key__": made.key, **made.members})
                    num_samples += 1
        receipt = Receipt(
            name=task.name,
            inputs=task.inputs,
            num_samples=num_samples,
            num_bytes=sink.num_bytes,
            sha256=sink.digest.hexdigest(),
            rejected=rejected,
        )
        storage.write_bytes(task.receipt_url, receipt.to_json())
    return receipt


def claim_set(tasks: Sequence[ShardTask]) -> None:
    """Tie the folder of these tasks to them.

    Raises:
        ValueError: it holds shards of other inputs.
    """
    out_url, urls = tasks[0].out_url, {task.url for task in tasks}
    plan_url = storage.join(out_url, PLAN_NAME)
    plan = json.dumps({"inputs": set_inputs(tasks), "num_shards": len(tasks)}, indent=1).encode() + b"\n"
    found = storage.list_files(out_url, suffix=".tar")
    remedy = "choose another folder or remove this one"
    if strangers := [url for url in found if url not in urls]:
        raise ValueError(f"got {len(strangers)} other shards in {out_url}, such as {strangers[0]}; {remedy}")
    if storage.exists(plan_url) and storage.read_bytes(plan_url) == plan:
        return
    if found:
        raise ValueError(f"got {out_url} with shards of other inputs or settings; {remedy}")
    storage.write_bytes(plan_url, plan)


def set_inputs(tasks: Sequence[ShardTask]) -> str:
    """One digest of what all the tasks depend on."""
    return hashlib.sha256("\n".join(f"{task.name} {task.inputs}" for task in tasks).encode()).hexdigest()


def find_receipts(tasks: Sequence[ShardTask]) -> dict[str, Receipt]:
    """Receipts of the shards that are there and were made from the inputs of their tasks, by name."""
    sizes = {url: size for url, (size, _) in storage.list_stamps(tasks[0].out_url).items()}
    there = [task for task in tasks if task.url in sizes and task.receipt_url in sizes]
    with ThreadPoolExecutor(_NUM_READERS) as pool:
        receipts = pool.map(lambda task: Receipt.from_json(storage.read_bytes(task.receipt_url)), there)
        return {
            task.name: receipt
            for task, receipt in zip(there, receipts, strict=True)
            if receipt.inputs == task.inputs and receipt.num_bytes == sizes[task.url]
        }


def read_written(out_url: str) -> dict[str, Any] | None:
    """Content of the commit if the set is complete."""
    url = storage.join(out_url, WRITTEN_NAME)
    return json.loads(storage.read_bytes(url)) if storage.exists(url) else None


def finish_set(tasks: Sequence[ShardTask]) -> SetReport:
    """Commit a set whose shards are all there.

    Raises:
        RuntimeError: one is missing, or is not what its receipt says.
    """
    receipts, out_url = find_receipts(tasks), tasks[0].out_url
    if absent := [task.name for task in tasks if task.name not in receipts]:
        raise RuntimeError(f"{len(absent)} shards of {out_url} are missing or damaged, such as {absent[0]}")
    storage.remove_drafts(out_url)
    found = [receipts[task.name] for task in tasks]
    rejected = [reject for receipt in found for reject in receipt.rejected]
    summary = {
        "inputs": set_inputs(tasks),
        "num_samples": sum(receipt.num_samples for receipt in found),
        "num_rejected": dict(sorted(Counter(reject.reason for reject in rejected).items())),
        "shards": {receipt.name: receipt.sha256 for receipt in found},
    }
    data = json.dumps(summary, indent=1).encode() + b"\n"
    written = read_written(out_url) != summary
    if written:
        storage.write_bytes(storage.join(out_url, WRITTEN_NAME), data)
    return SetReport(
        num_samples=summary["num_samples"],
        num_shards=len(found),
        num_bytes=sum(receipt.num_bytes for receipt in found),
        written=written,
        rejected=rejected,
    )


class _Digesting:
    """Passes bytes on to a file, counts them and takes their digest."""

    def __init__(self, file: IO[bytes]):
        self._file = file
        self.num_bytes = 0
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.num_bytes += len(data)
        self.digest.update(data)
        return self._file.write(data)
