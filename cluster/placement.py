"""Where a run takes place: workers, devices, storage. Of the result it may change rounding only."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Literal

import torch


@dataclasses.dataclass(frozen=True, kw_only=True)
class Placement:
    """Where a training run takes place; the same experiment may run under any placement."""

    num_workers: int = 1
    """Training workers, one device each."""
    min_workers: int = 0
    """Fewer workers will do while the cluster has no room for all, down to this number; 0 wants all of them."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """``auto`` takes GPUs where the Ray cluster has enough of them."""
    cpus_per_worker: int = 1
    """Logical CPUs each training worker reserves."""
    decode_cpus: int = 2
    """Logical CPUs that must be left for decoding; decoding takes more where the cluster has them."""
    storage: str = "runs"
    """Folder or URL under which the run keeps its checkpoints and its model; shared by all nodes."""
    zero_stage: Literal[0, 1, 2, 3] = 1
    """How much DeepSpeed shards: 1 optimiser state, 2 + gradients, 3 + parameters; a single worker shards nothing."""
    offload: bool = False
    """Keep the optimiser's state in the memory of the host, where its steps then run: less GPU memory, more time."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """``auto`` computes in bf16 where the device has it, with float32 master weights."""
    micro_batch: int = 0
    """Samples that a worker encodes at once; 0 takes all of its share. Less memory for a second forward pass."""
    gradient_checkpointing: bool = False
    """Compute the inside of every transformer block again in the backward pass: less memory, a third more time."""
    compile: bool = False
    """Compile the transformer blocks (``torch.compile``); needs a C++ compiler on CPUs."""
    max_failures: int = 3
    """How often in a row a broken worker group is started again without a new checkpoint in between."""
    wait_for_nodes_s: float = 0
    """Seconds an autoscaling cluster gets to grow to the size wanted."""
    grow_after_s: float = 60
    """Seconds between two looks whether there is room for more workers; each change of size costs a restart."""
    hang_after_s: float = 900
    """Seconds without progress after which a worker counts as hanging and is ended."""

    def __post_init__(self) -> None:
        for name in ("num_workers", "cpus_per_worker", "decode_cpus"):
            if getattr(self, name) < 1:
                raise ValueError(f"got {name}={getattr(self, name)}, wanted at least 1")
        if not 0 <= self.min_workers <= self.num_workers:
            raise ValueError(f"got min_workers={self.min_workers}, wanted 0 to num_workers={self.num_workers}")
        if self.micro_batch < 0:
            raise ValueError(f"got micro_batch={self.micro_batch}, wanted at least 1, or 0 for no bound")
        if self.zero_stage == 0 and self.offload:
            raise ValueError("got zero_stage=0 with offload, wanted 1, 2 or 3, which hold that state; use zero_stage=1")
        if self.zero_stage == 3 and (self.micro_batch or self.compile):
            raise ValueError(
                f"got zero_stage=3 with micro_batch={self.micro_batch}, compile={self.compile}, wanted neither "
                "(its weights come and go); use zero_stage=2, or micro_batch=0 and no compile"
            )

    @property
    def fewest_workers(self) -> int:
        return self.min_workers or self.num_workers

    def stage_of(self, num_workers: int) -> int:
        """The ZeRO stage of a group: a single worker has nobody to share with, and stage 0 copies least."""
        return 0 if num_workers == 1 and not self.offload else self.zero_stage

    def bundles(self, *, use_gpu: bool) -> list[dict[str, float]]:
        """All that the training reserves at the same time, each on one node."""
        return [self.worker_resources(use_gpu=use_gpu)] * self.num_workers + [{"CPU": 1.0}] * self.decode_cpus

    def worker_resources(self, *, use_gpu: bool) -> dict[str, float]:
        """What each training worker reserves of its node."""
        return {"CPU": self.cpus_per_worker, **({"GPU": 1} if use_gpu else {})}

    def room(self, nodes: Iterable[Mapping[str, float]], *, use_gpu: bool) -> int:
        """How many of the workers the nodes hold, with the CPUs for decoding left over."""
        nodes = list(nodes)
        worker = self.worker_resources(use_gpu=use_gpu)
        fitting = sum(int(min(node.get(kind, 0) // amount for kind, amount in worker.items())) for node in nodes)
        spare_cpus = sum(node.get("CPU", 0) for node in nodes) - self.decode_cpus
        return max(0, min(self.num_workers, fitting, int(spare_cpus // self.cpus_per_worker)))


def bucket_elements(trained: int) -> int:
    """Gradient elements that are reduced at once: DeepSpeed's default, and not more than there are."""
    return min(500_000_000, trained)


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The type matrix products are computed in on ``device``."""
    if precision == "auto":
        # Older devices emulate bf16, more slowly than they compute in float32.
        has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if has_bf16 else torch.float32
    return torch.bfloat16 if precision == "bf16" else torch.float32
