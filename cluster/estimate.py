"""What a training run will need of its devices: memory under every ZeRO stage, and time. Nothing is started.

Memory of a worker, from DeepSpeed 0.19 as ``engine`` sets it up: parameters in float32 whatever autocast does, its
buckets of B elements (``bucket_elements``). P are all parameters, T the trained ones, N the workers, c the types that
gradients travel in: float32, and under autocast also the half type, for linear and convolutional layers.

    stage   weights      master copies   moments   gradients   buckets                   after the backward pass
    0       4P           –               8T        4T          –                         4T, for all to be reduced
    1       4P           4T/N            8T/N      4T          c · 4B                    4T/N: the worker's own
    2       4P           4T/N            8T/N      4T/N        c · 4B                    4T, for all to be reduced
    3       4P/N + 4P    4T/N            8T/N      4T/N        (4 + 2 if c = 2) · B      4T, for all to be reduced

The buckets of stages 1 and 2 are there in float32 for each type from the first gradient to the last
(``stage_1_and_2.setup_buckets``); those of stage 3 are there always, each in its type
(``stage3._setup_for_real_optimizer``). Stages 1 to 3 copy float32 weights once more for the optimiser: stage 3 means
to share them, but compares a device with its name. Stage 3 gathers weights and keeps those that are used again within
10⁹ elements: all of a model of this size. What fills pieces up to equal sizes is left out.
"""

import dataclasses
import math
from typing import Any

import torch
from torch import nn

from cluster.placement import Placement, bucket_elements
from fpig_core.flops import StepCost, step_cost
from fpig_core.speed import checkpoint_blocks

LIVE = 1_000_000_000
"""Elements of DeepSpeed's ``stage3_max_live_parameters``."""
FILLED = 0.9
"""Share of a device's memory that may be planned; the rest is for CUDA's context, NCCL and holes between tensors."""
STAGES = (0, 1, 2, 3)
HALF_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Whose gradients travel in half precision under autocast (``deepspeed.runtime.torch_autocast``)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Device:
    """Memory in bytes (a data sheet's GB are taken as 10⁹) and dense peaks in operations per second.

    ``names`` are what CUDA calls it. float32 is that of the CUDA cores: PyTorch leaves TF32 off for products.
    """

    memory: int
    bf16: float
    fp32: float
    names: tuple[str, ...]

    def peak(self, dtype: torch.dtype) -> float:
        return self.bf16 if dtype == torch.bfloat16 else self.fp32


DEVICES = {
    "H100": Device(memory=80 * 10**9, bf16=989e12, fp32=67e12, names=("NVIDIA H100 80GB HBM3",)),
    "H100-PCIe": Device(memory=80 * 10**9, bf16=756e12, fp32=51e12, names=("NVIDIA H100 PCIe",)),
    "H200": Device(memory=141 * 10**9, bf16=989e12, fp32=67e12, names=("NVIDIA H200",)),
    "A100-80GB": Device(
        memory=80 * 10**9, bf16=312e12, fp32=19.5e12, names=("NVIDIA A100-SXM4-80GB", "NVIDIA A100 80GB PCIe")
    ),
    "A100-40GB": Device(
        memory=40 * 10**9, bf16=312e12, fp32=19.5e12, names=("NVIDIA A100-SXM4-40GB", "NVIDIA A100-PCIE-40GB")
    ),
    "L40S": Device(memory=48 * 10**9, bf16=362e12, fp32=91.6e12, names=("NVIDIA L40S",)),
    "A10": Device(memory=24 * 10**9, bf16=125e12, fp32=31.2e12, names=("NVIDIA A10",)),
    "L4": Device(memory=24 * 10**9, bf16=121e12, fp32=30.3e12, names=("NVIDIA L4",)),
}
"""NVIDIA's data sheets of these products (SXM where nothing else is said); figures "with sparsity" are halved."""
CPU = "cpu"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
    """Elements of a model."""

    parameters: int
    trained: int
    half: int
    """Trained ones whose gradients travel in half precision under autocast."""

    @classmethod
    def of(cls, model: nn.Module) -> "Sizes":
        half = {
            id(parameter)
            for module in model.modules()
            if type(module) in HALF_LAYERS
            for parameter in module.parameters(recurse=False)
        }
        parameters = list(model.parameters())
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        return cls(
            parameters=sum(parameter.numel() for parameter in parameters),
            trained=sum(parameter.numel() for parameter in trained),
            half=sum(parameter.numel() for parameter in trained if id(parameter) in half),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes on one device. ``reduction`` comes when ``activations`` and ``frames`` have gone.

    Under stages 0 and 1 ``activations`` are what is needed at most beyond room for all gradients, which fill up while
    the activations go.
    """

    weights: int
    masters: int
    moments: int
    gradients: int
    buckets: int
    activations: int
    frames: int
    reduction: int

    @property
    def total(self) -> int:
        held = self.weights + self.masters + self.moments + self.gradients + self.buckets
        return held + max(self.activations + self.frames, self.reduction)

    def fits(self, device: Device) -> bool:
        return self.total <= FILLED * device.memory


def memory_of(
    sizes: Sizes, cost: StepCost, *, stage: int, num_workers: int, dtype: torch.dtype, frames: int, on_cpu: bool = False
) -> Memory:
    """Memory of a worker; the module's docstring has the terms.

    Args:
        frames: bytes of a worker's frames.
        on_cpu: count of the buckets what is filled: a CPU gives out memory when it is written to.
    """
    P, T, N = 4 * sizes.parameters, 4 * sizes.trained, num_workers
    own = math.ceil(T / N)
    in_half = sizes.half if dtype != torch.float32 else 0
    filled = {2: in_half, 4: sizes.trained - in_half}
    bucket = bucket_elements(sizes.trained)
    held = {size: min(elements, bucket) if on_cpu else bucket for size, elements in filled.items() if elements}
    whole_gradient = {"gradients": T, "activations": cost.peak_bytes - T}
    own_gradient = {"gradients": own, "activations": cost.activation_bytes}
    copy = 4 * bucket
    terms = {
        0: {"weights": P, "masters": 0, "moments": 2 * T, "buckets": 0, "reduction": copy} | whole_gradient,
        # The copy for the reduction takes the place of the gradients, which have moved to the buckets.
        1: {"weights": P, "buckets": 4 * sum(held.values()), "reduction": own} | whole_gradient,
        2: {"weights": P, "buckets": 4 * sum(held.values()), "reduction": copy} | own_gradient,
        3: {
            "weights": math.ceil(P / N) + 4 * min(sizes.parameters, LIVE),
            "buckets": sum(size * elements for size, elements in held.items()),
            "reduction": copy,
        }
        | own_gradient,
    }
    return Memory(**({"masters": own, "moments": 2 * own, "frames": frames} | terms[stage]))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a run costs on each device, ``memory`` under every ZeRO stage."""

    sizes: Sizes
    rows: int
    dtype: torch.dtype
    cost: StepCost
    memory: dict[int, Memory]

    def fitting(self, device: Device) -> list[int]:
        """The stages whose memory the device has."""
        return [stage for stage, memory in self.memory.items() if memory.fits(device)]


def estimate(model: Any, *, global_batch: int, placement: Placement, device: str) -> Estimate:
    """The estimate for a model in training mode (best on ``meta``), whose blocks this may leave checkpointed.

    Raises:
        ValueError: an unknown device.
    """
    if device != CPU and device not in DEVICES:
        raise ValueError(f"got the device {device!r}, wanted one of {', '.join(DEVICES)}, {CPU}")
    if placement.gradient_checkpointing:
        checkpoint_blocks(model)
    dtype, rows = planned_dtype(placement, device), -(-global_batch // placement.num_workers)
    sizes, preprocess = Sizes.of(model), model.config.preprocess
    cost = step_cost(
        model, rows=rows, num_workers=placement.num_workers, micro_batch=placement.micro_batch, dtype=dtype
    )
    memory = {
        stage: memory_of(
            sizes,
            cost,
            stage=stage,
            num_workers=placement.num_workers,
            dtype=dtype,
            frames=rows * preprocess.num_frames * 3 * preprocess.size**2,
            on_cpu=device == CPU,
        )
        for stage in STAGES
        if stage < 3 or not (placement.micro_batch or placement.compile)
    }
    return Estimate(sizes=sizes, rows=rows, dtype=dtype, cost=cost, memory=memory)


def advise(model: Any, found: Estimate, *, global_batch: int, placement: Placement, device: str) -> str:
    """Which options make the run fit the device, the cheapest first; the model's blocks may be left checkpointed."""
    if device == CPU:
        return "the memory of this machine is not known; compare it with the total"
    stages, stage = found.fitting(DEVICES[device]), placement.stage_of(placement.num_workers)
    if stage in stages:
        smallest = f"; --placement.zero-stage {stages[0]} is the smallest stage that does"
        return f"fits {device}" + (smallest if stages[0] < stage else "")
    if stages:
        return f"does not fit {device}; use --placement.zero-stage {stages[0]}"

    for checkpointing in dict.fromkeys((placement.gradient_checkpointing, True)):
        changed = dataclasses.replace(placement, zero_stage=0, gradient_checkpointing=checkpointing)
        also = " --placement.gradient-checkpointing" if checkpointing else ""
        if checkpointing != placement.gradient_checkpointing:
            found = estimate(model, global_batch=global_batch, placement=changed, device=device)
            if stages := found.fitting(DEVICES[device]):
                return f"does not fit {device}; use{also} --placement.zero-stage {stages[0]}"
        rest = min(memory.total - memory.activations for memory in found.memory.values())
        room = (FILLED * DEVICES[device].memory - rest) / max(1, found.memory[0].activations)
        # Less than in proportion: what a piece leaves behind and the second pass take some, too.
        micro_batch = _power_of_two(room * (placement.micro_batch or found.rows))
        for smaller in (micro_batch, micro_batch // 2, micro_batch // 4):
            if not smaller:
                break
            pieces = dataclasses.replace(changed, micro_batch=smaller)
            there = estimate(model, global_batch=global_batch, placement=pieces, device=device)
            if stages := there.fitting(DEVICES[device]):
                return (
                    f"does not fit {device}; use --placement.micro-batch {smaller}{also} "
                    f"--placement.zero-stage {stages[0]}"
                )
    return f"does not fit {device}, whatever the stage and the micro-batch; use more workers, or a larger device"


def _power_of_two(size: float) -> int:
    """The largest one up to ``size``; 0 below 1."""
    return 2 ** (int(size).bit_length() - 1) if size >= 1 else 0


def planned_dtype(placement: Placement, device: str) -> torch.dtype:
    """What ``placement.autocast_dtype`` would choose on a device that is not here."""
    is_half = placement.precision == "bf16" or (placement.precision == "auto" and device != CPU)
    return torch.bfloat16 if is_half else torch.float32


def flops_per_sample(model: Any, placement: Placement) -> float:
    """Operations of a step for each of its samples; the model's blocks may be left checkpointed.

    Counted with two samples: what scores of a large batch add to each is less than a thousandth.
    """
    if placement.gradient_checkpointing:
        checkpoint_blocks(model)
    return step_cost(model, rows=2, micro_batch=1 if placement.micro_batch else 0).flops / 2


def rate_metrics(flops_per_s: float, *, device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    """What a device achieves: ``tflops_per_device``, and ``peak_share`` where its peak is known.

    ``dtype`` is the type of matrix products. Nothing if nothing was counted.
    """
    if not flops_per_s:
        return {}
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    metrics = {"tflops_per_device": flops_per_s / 1e12}
    for known in DEVICES.values():
        if name in known.names:
            metrics["peak_share"] = flops_per_s / known.peak(dtype)
    return metrics
