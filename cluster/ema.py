"""An exponential moving average of the weights, held in pieces beside Adam's moments under any ZeRO stage."""

from typing import Any

import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn

from cluster.adam import MOMENTS, adam_of, make_state, masters

EMA = "ema"


def share_of_newest(num_steps: int, *, decay: float) -> float:
    """What the average moves towards the weights after step ``num_steps`` (from 1).

    It is then the mean of the weights after all steps, each counting ``decay`` times as much as the next, and the
    first weights not at all: Adam's correction of its own averages, for weights (Kingma and Ba 2015, arXiv:1412.6980,
    section 7.2).
    """
    return (1 - decay) / (1 - decay**num_steps)


class AveragedWeights:
    """The average of an engine's weights; with ``decay=0`` there is none, and the weights stay in use."""

    def __init__(self, engine: Any, *, decay: float) -> None:
        self._engine, self._decay = engine, decay
        self._is_in_use = False
        if decay:
            make_state(engine, num_steps=0, kinds=(*MOMENTS, EMA))
            for average, master in zip(*self._averages_and_masters(), strict=True):
                average.copy_(master.detach())

    def update(self) -> None:
        """Count the weights in; to be called after every step."""
        if self._decay:
            # DeepSpeed leaves out a step whose gradient is not finite, and its schedule does not count it.
            num_steps = max(1, self._engine.lr_scheduler.last_epoch)
            share = share_of_newest(num_steps, decay=self._decay)
            get_ema_multi_avg_fn(1 - share)(*self._averages_and_masters(), None)

    def use(self, is_wanted: bool) -> None:
        """Put the average in the place of the weights, or the weights back. Between both, no step and no checkpoint."""
        if self._decay and is_wanted != self._is_in_use:
            self._exchange()
            self._is_in_use = is_wanted

    def _averages_and_masters(self) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        state, tensors = adam_of(self._engine).state, list(masters(self._engine))
        return [state[tensor][EMA] for tensor in tensors], tensors

    @torch.no_grad()
    def _exchange(self) -> None:
        stage, zero = self._engine.zero_optimization_stage(), self._engine.optimizer
        if stage == 3:
            zero.checkpoint_event_prologue()  # lets go of the parameters that are whole
        for average, master in zip(*self._averages_and_masters(), strict=True):
            weight = master.clone()
            master.copy_(average)
            average.copy_(weight)
        if stage in (1, 2):
            zero.update_lp_params()
        elif stage == 3:
            for group in range(len(zero.fp32_partitioned_groups_flat)):
                zero._reassign_or_swap_out_partitioned_parameters(group)
            zero.checkpoint_event_epilogue()  # makes those whole that always are
