"""The memory of a worker against sums by hand, and what is advised where it is too little."""

import dataclasses

import pytest
import torch
from deepspeed.runtime.torch_autocast import LOWER_PRECISION_SAFE_MODULES
from torch import nn

from cluster.estimate import (
    DEVICES,
    HALF_LAYERS,
    Device,
    Sizes,
    advise,
    estimate,
    flops_per_sample,
    memory_of,
    rate_metrics,
)
from cluster.placement import Placement
from fpig_core.flops import StepCost, step_cost
from fpig_core.models import build_model
from tests.methods import METHOD_CONFIGS, build_method

SIZES = Sizes(parameters=1000, trained=600, half=400)
COST = StepCost(flops=0, peak_bytes=10_000, activation_bytes=9_000)


def empty(name: str):
    with torch.device("meta"):
        return build_model(METHOD_CONFIGS[name])


def test_sizes_are_those_of_the_real_model():
    for name in ("fpig", "fpig, generator stage"):
        real = build_method(name)
        sizes = Sizes.of(empty(name))
        assert sizes.parameters == sum(parameter.numel() for parameter in real.parameters())
        assert sizes.trained == sum(parameter.numel() for parameter in real.parameters() if parameter.requires_grad)
    layers = nn.Sequential(nn.Linear(3, 5), nn.LayerNorm(5), nn.Conv2d(2, 4, 3).requires_grad_(False))
    assert Sizes.of(layers) == Sizes(parameters=20 + 10 + 76, trained=30, half=20)
    assert set(HALF_LAYERS) == set(LOWER_PRECISION_SAFE_MODULES)


@pytest.mark.parametrize(
    ("stage", "held", "at_once"),
    [
        # weights + masters + moments + gradients + buckets; then activations and frames, or the reduction
        (0, 4000 + 0 + 4800 + 2400 + 0, 7600 + 50),
        (1, 4000 + 1200 + 2400 + 2400 + 2 * 4 * 600, 7600 + 50),
        (2, 4000 + 1200 + 2400 + 1200 + 2 * 4 * 600, 9000 + 50),
        (3, 2000 + 4000 + 1200 + 2400 + 1200 + 6 * 600, 9000 + 50),
    ],
)
def test_memory_is_the_sum_by_hand(stage, held, at_once):
    found = memory_of(SIZES, COST, stage=stage, num_workers=2, dtype=torch.bfloat16, frames=50)
    assert found.total == held + at_once


def test_every_type_has_a_bucket_and_a_cpu_only_what_is_filled():
    def buckets(dtype: torch.dtype, *, on_cpu: bool) -> int:
        return memory_of(SIZES, COST, stage=2, num_workers=2, dtype=dtype, frames=0, on_cpu=on_cpu).buckets

    assert [buckets(torch.float32, on_cpu=on_cpu) for on_cpu in (False, True)] == [4 * 600, 4 * 600]
    assert [buckets(torch.bfloat16, on_cpu=on_cpu) for on_cpu in (False, True)] == [2 * 4 * 600, 4 * (400 + 200)]


def test_the_estimate_is_put_together_from_its_parts():
    placement = Placement(num_workers=2, precision="fp32")
    found = estimate(empty("fpig"), global_batch=8, placement=placement, device="H100")
    cost = step_cost(empty("fpig"), rows=4, num_workers=2)
    frames = 4 * 3 * 3 * 32 * 32
    assert (found.rows, found.cost) == (4, cost)
    for stage, memory in found.memory.items():
        assert memory == memory_of(found.sizes, cost, stage=stage, num_workers=2, dtype=torch.float32, frames=frames)


@pytest.mark.slow
def test_advice_names_what_makes_the_run_fit(monkeypatch):
    model, placement = empty("mean_pool"), Placement(num_workers=2, zero_stage=1, precision="fp32")
    found = estimate(model, global_batch=128, placement=placement, device="H100")

    def told(memory: float) -> str:
        monkeypatch.setitem(DEVICES, "H100", Device(memory=int(memory), bf16=1.0, fp32=1.0, names=()))
        return advise(model, found, global_batch=128, placement=placement, device="H100")

    assert told(80e9).startswith("fits H100; --placement.zero-stage 0 is the smallest")
    assert told(found.memory[0].total / 0.9 + 1) == "does not fit H100; use --placement.zero-stage 0"
    words = told(found.memory[0].total / 0.9 - 2e6).split()
    micro_batch = int(words[words.index("--placement.micro-batch") + 1])
    smaller = dataclasses.replace(placement, micro_batch=micro_batch)
    fitting = estimate(model, global_batch=128, placement=smaller, device="H100").memory[0]
    assert fitting.total <= found.memory[0].total - 2e6
    assert "whatever the stage" in told(1000)


def test_unknown_devices_are_refused():
    with pytest.raises(ValueError, match=r"got the device 'H1000', wanted one of H100, .*, cpu"):
        estimate(empty("fpig"), global_batch=8, placement=Placement(), device="H1000")


def test_operations_a_sample_are_those_of_a_step():
    for placement in (Placement(), Placement(micro_batch=2)):
        step = step_cost(empty("mean_pool"), rows=4, micro_batch=placement.micro_batch).flops
        assert flops_per_sample(empty("mean_pool"), placement) == pytest.approx(step / 4, rel=1e-3)


def test_rates(monkeypatch):
    assert rate_metrics(0.0, device=torch.device("cpu"), dtype=torch.float32) == {}
    assert rate_metrics(2e12, device=torch.device("cpu"), dtype=torch.float32) == {"tflops_per_device": 2.0}
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA L4")
    rates = rate_metrics(12.1e12, device=torch.device("cuda"), dtype=torch.bfloat16)
    assert rates == {"tflops_per_device": pytest.approx(12.1), "peak_share": pytest.approx(0.1)}
