"""Two processes and gloo give the loss and the gradients of one process that has all rows."""

import pytest
import torch

from cluster.collectives import gather
from fpig_core.rows import Noise
from fpig_core.training_step import TrainingStep
from tests.cluster.gloo import run_workers
from tests.methods import METHOD_CONFIGS, build_method, make_batch

TOLERANCE = 1e-5
VALID = (True, True, False, True, True, True)


def loss_and_gradients(step: TrainingStep, part: slice) -> tuple[float, dict[str, torch.Tensor]]:
    frame, word = make_batch()
    losses = step(frame[part], word[part], torch.tensor(VALID)[part], noise=Noise(seed=4, first=part.start))
    losses["loss"].backward()
    return losses["loss"].item(), {
        name: parameter.grad for name, parameter in step.model.named_parameters() if parameter.grad is not None
    }


def share_of_all_methods(rank: int, num_workers: int, micro_batch: int) -> dict[str, tuple[float, dict]]:
    """Means over workers of the loss and of each gradient, as averaging engines make them."""
    rows = len(VALID) // num_workers
    results = {}
    for name in METHOD_CONFIGS:
        step = TrainingStep(build_method(name), micro_batch=micro_batch, gather=gather, rank=rank)
        loss, gradients = loss_and_gradients(step, slice(rank * rows, (rank + 1) * rows))
        mean = {key: gather(gradient[None]).mean(dim=0).numpy() for key, gradient in sorted(gradients.items())}
        results[name] = float(gather(torch.tensor([loss])).mean()), mean
    return results


@pytest.mark.parametrize("micro_batch", [0, 2])
def test_two_workers_get_the_loss_and_the_gradients_of_one(micro_batch) -> None:
    workers = run_workers(share_of_all_methods, 2, micro_batch)
    for name in METHOD_CONFIGS:
        wanted_loss, wanted = loss_and_gradients(TrainingStep(build_method(name)), slice(0, len(VALID)))
        whole = torch.cat([gradient.flatten() for gradient in wanted.values()]).norm()
        for loss, gradients in (worker[name] for worker in workers):
            assert loss == pytest.approx(wanted_loss, rel=TOLERANCE), name
            assert gradients.keys() == wanted.keys()
            for key, gradient in wanted.items():
                error = (torch.from_numpy(gradients[key]) - gradient).norm()
                # Gradients that ought to be zero hold rounding alone: measure them against the whole gradient.
                assert error <= TOLERANCE * max(gradient.norm(), 1e-2 * whole), f"{name}: {key}"


def gathered_gradients(rank: int, num_workers: int) -> list[float]:
    torch.manual_seed(rank)
    local = torch.randn(2, 3, requires_grad=True)
    everything = gather(local)
    weights = torch.arange(everything.numel(), dtype=torch.float32).view_as(everything) * (rank + 1)
    (everything * weights).sum().backward()
    assert torch.equal(everything[rank * 2 : rank * 2 + 2], local)
    assert local.grad is not None
    return local.grad.flatten().tolist()


def test_gathered_gradients_are_summed_over_workers() -> None:
    first, second = run_workers(gathered_gradients, 2)
    assert first + second == [3.0 * place for place in range(12)]


def gradients_of_a_sum(rank: int, num_workers: int) -> list[float]:
    """Both addends get one and the same tensor as their gradient."""
    text, video = torch.ones(2, 1, requires_grad=True), torch.ones(2, 1, requires_grad=True)
    ((gather(text) + gather(video)) * (rank + 1.0)).sum().backward()
    assert text.grad is not None
    assert video.grad is not None
    return torch.cat([text.grad, video.grad]).flatten().tolist()


def test_gathering_leaves_the_gradients_of_others_alone() -> None:
    assert run_workers(gradients_of_a_sum, 2) == [[3.0] * 4] * 2
