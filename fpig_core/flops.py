"""What a computation costs, counted without doing it: operations, and the bytes that live on its device.

A model on the device ``meta`` has shapes and no numbers, so a training step of any size is gone through in a second.
What is counted there is what a GPU does: attention that keeps no matrix, and products in half precision under autocast.
"""

import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple
from unittest import mock

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn
from torch.autograd.graph import _engine_run_backward
from torch.fx.experimental import _config as tracing
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from fpig_core.rows import Noise
from fpig_core.training_step import TrainingStep

MOST_PIECES = 3
"""Micro-batches that are gone through one by one; of more the cost is extrapolated."""
ATTENTION, LINEAR = nnf.scaled_dot_product_attention, nnf.linear
IN_HALF = {
    *(LINEAR, nnf.conv2d, torch.conv2d, torch.matmul, Tensor.matmul, Tensor.__matmul__, Tensor.__rmatmul__),
    *(torch.bmm, Tensor.bmm, torch.mm, Tensor.mm, torch.addmm, torch.baddbmm, torch.einsum),
}
IN_FLOAT32 = {
    *(nnf.layer_norm, nnf.softmax, torch.softmax, Tensor.softmax, nnf.log_softmax, Tensor.exp, nnf.cross_entropy),
    *(nnf.cosine_similarity, nnf.normalize, Tensor.sum, Tensor.norm, Tensor.cumsum),
}
"""What CUDA's autocast computes in which type, as far as the models use it (PyTorch, "CUDA Op-Specific Behavior")."""


class StepCost(NamedTuple):
    """Of one training step on one device."""

    flops: int
    """Operations of matrix products, two for each multiplication and addition; repeated ones count again."""
    peak_bytes: int
    """Most bytes that live at once, gradients of parameters included; parameters and inputs are not."""
    activation_bytes: int
    """The same of all but the finished gradients of parameters."""


def count_flops(call: Callable[[], object]) -> int:
    """Operations of one call. It computes without the fused attention of evaluation, which is not counted."""
    is_fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with FlopCounterMode(display=False) as counter:
            call()
    finally:
        torch.backends.mha.set_fastpath_enabled(is_fused)
    return counter.get_total_flops()


def step_cost(
    model: Any, *, rows: int, num_workers: int = 1, micro_batch: int = 0, dtype: torch.dtype = torch.float32
) -> StepCost:
    """The cost of a step of ``rows`` samples on each of ``num_workers`` devices.

    ``model`` is in training mode, on ``meta`` or real, with its blocks checkpointed or not. Operations whose number
    follows the data (masked words) count as if every word were chosen.
    """
    columns = rows * num_workers
    if not micro_batch or rows <= MOST_PIECES * micro_batch:
        return _go_through(model, rows=rows, columns=columns, micro_batch=micro_batch, dtype=dtype)
    # With all columns there, everything grows in proportion to the rows.
    few, some = (
        _go_through(model, rows=pieces * micro_batch, columns=columns, micro_batch=micro_batch, dtype=dtype)
        for pieces in (MOST_PIECES - 1, MOST_PIECES)
    )
    more_pieces = rows / micro_batch - MOST_PIECES
    return StepCost(*(last + round((last - before) * more_pieces) for before, last in zip(few, some, strict=True)))


def _go_through(model: Any, *, rows: int, columns: int, micro_batch: int, dtype: torch.dtype) -> StepCost:
    preprocess, device = model.config.preprocess, next(model.parameters()).device
    frame_shape = (rows, preprocess.num_frames, 3, preprocess.size, preprocess.size)
    inputs = (
        torch.zeros(frame_shape, dtype=torch.uint8, device=device),
        torch.ones(rows, model.config.backbone.context_length, dtype=torch.int64, device=device),
        torch.ones(rows, dtype=torch.bool, device=device),
    )
    step = TrainingStep(
        model, micro_batch=micro_batch, gather=lambda x_B: torch.cat([x_B] * -(-columns // rows))[:columns]
    )
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    tally = Tally(beside=[*model.parameters(), *model.buffers(), *inputs])
    hooks = [parameter.register_post_accumulate_grad_hook(tally.set_gradient_aside) for parameter in trained]
    try:
        with mock.patch.object(tracing, "meta_nonzero_assume_all_nonzero", True), AsOnGpu(dtype), tally:
            _backward(step(*inputs, noise=Noise(seed=0))["loss"])
    finally:
        for hook, parameter in zip(hooks, trained, strict=True):
            hook.remove()
            parameter.grad = None
    return StepCost(flops=tally.flops, peak_bytes=tally.peak, activation_bytes=tally.peak_beside)


def _backward(loss: Tensor) -> None:
    """``loss.backward()`` would be one function to ``AsOnGpu``, with what checkpoints compute again inside of it."""
    one = torch.ones_like(loss)
    _engine_run_backward((loss,), (one,), False, False, (), allow_unreachable=True, accumulate_grad=True)


class Tally(TorchDispatchMode):
    """``flops`` of operations inside, and bytes of the tensors they made that somebody still holds: ``now``, ``peak``.

    A storage counts once, whatever views it has; those of the tensors in ``beside`` do not count. ``peak_beside`` is
    the most without what was set aside.
    """

    def __init__(self, beside: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.flops = self.now = self.peak = self.peak_beside = 0
        self._beside = [tensor.untyped_storage() for tensor in beside]
        self._known = {storage._cdata for storage in self._beside}
        self._aside: dict[int, int] = {}

    def set_gradient_aside(self, parameter: Tensor) -> None:
        assert parameter.grad is not None
        storage = parameter.grad.untyped_storage()
        self._aside[storage._cdata] = storage.nbytes()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        # FlopCounterMode would keep what checkpoints compute again, by hooks that refer to their own graph.
        if formula := flop_registry.get(func._overloadpacket):
            self.flops += formula(*args, **kwargs, out_val=result)
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._note(tensor.untyped_storage())
        return result

    def _note(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata in self._known:
            return
        self._known.add(storage._cdata)
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        self.peak_beside = max(self.peak_beside, self.now - sum(self._aside.values()))
        weakref.finalize(storage, self._forget, storage._cdata, storage.nbytes())

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._aside.pop(key, None)
        self.now -= size


class AsOnGpu(TorchFunctionMode):
    """Computes as a GPU does where it matters for memory: fused attention, and autocast to ``dtype``.

    The device ``meta`` knows neither. float32 is no autocast.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self._dtype = dtype
        self._cast: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is ATTENTION:
            return self._attention(*args, **kwargs)
        if func is nnf.multi_head_attention_forward:
            # What Python functions of torch call in turn does not come by here.
            with mock.patch.multiple(nnf, scaled_dot_product_attention=self._attention, linear=self._linear):
                return func(*args, **kwargs)
        if self._dtype != torch.float32 and func in IN_HALF:
            args, kwargs = tree_map(self._in_half, (tuple(args), kwargs))
        elif self._dtype != torch.float32 and func in IN_FLOAT32:
            args, kwargs = tree_map(_in_float32, (tuple(args), kwargs))
        return func(*args, **kwargs)

    def _attention(
        self, q: Any, k: Any, v: Any, attn_mask: Any = None, dropout_p: float = 0.0, is_causal: bool = False
    ) -> Tensor:
        if self._dtype != torch.float32:
            q, k, v, attn_mask = (self._in_half(x) for x in (q, k, v, attn_mask))
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            attn_mask = torch.zeros_like(attn_mask, dtype=q.dtype).masked_fill(~attn_mask, float("-inf"))
        fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        return fused(q, k, v, dropout_p, is_causal, attn_mask=attn_mask)[0]

    def _linear(self, *args: Any) -> Tensor:
        return self.__torch_function__(LINEAR, (), args)

    def _in_half(self, x: Any) -> Any:
        """Weights are cast once, as autocast does."""
        if not isinstance(x, Tensor) or x.dtype != torch.float32:
            return x
        if not isinstance(x, nn.Parameter):
            return x.to(self._dtype)
        if id(x) not in self._cast:
            self._cast[id(x)] = x, x.to(self._dtype)
        return self._cast[id(x)][1]


def _in_float32(x: Any) -> Any:
    return x.float() if isinstance(x, Tensor) and x.dtype in (torch.bfloat16, torch.float16) else x
