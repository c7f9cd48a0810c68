"""BatchNorm over the images of all processes, on any device.

torch's own ``SyncBatchNorm`` computes on GPUs only; there it is used.  On CPUs this one makes runs of several
processes equal to a run of one with the same batch, which is also how the tests compare them.

Source: Ioffe and Szegedy, "Batch Normalization" (2015), algorithm 1, over the whole batch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.modules.batchnorm import _BatchNorm


class _SumFunction(torch.autograd.Function):
    """Sum over the processes; what each of them does with it acts back on all."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        return total


def _summed(x: Tensor) -> Tensor:
    # torch's stubs do not know what a function's own ``apply`` answers.
    apply: Any = _SumFunction.apply
    total: Tensor = apply(x)
    return total


class SharedNorm(_BatchNorm):
    """BatchNorm of any dimension whose batch is that of all processes, which must be equal parts."""

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected at least 2 dimensions, got {input.dim()}")

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, …) -> the same shape; in evaluation by the running statistics, as ever."""
        if not self.training:
            return super().forward(input)
        dims = [0, *range(2, input.dim())]
        # C -> 1 x C x 1 x …
        shape = [1, -1] + [1] * (input.dim() - 2)
        x = input.to(self.weight.dtype)
        count = x.numel() // x.shape[1] * dist.get_world_size()
        mean = _summed(x.sum(dims)) / count
        centred = x - mean.reshape(shape)
        variance = _summed(centred.square().sum(dims)) / count
        self._record(mean.detach(), variance.detach() * (count / max(count - 1, 1)))
        scale = (variance + self.eps).rsqrt() * self.weight
        return (centred * scale.reshape(shape) + self.bias.reshape(shape)).to(input.dtype)

    @torch.no_grad()
    def _record(self, mean: Tensor, variance: Tensor) -> None:
        if not self.track_running_stats or self.running_mean is None or self.running_var is None:
            return
        assert self.momentum is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)


def share_norms(model: nn.Module, device: str) -> None:
    """Let every BatchNorm of a model see the batches of all processes; names, weights and statistics stay.

    Args:
        model: changed in place; must not itself be a BatchNorm.
        device: "cpu", or a GPU for torch's own.
    """
    for name, child in list(model.named_children()):
        if isinstance(child, _BatchNorm):
            setattr(model, name, _shared(child, nn.SyncBatchNorm if device != "cpu" else SharedNorm))
        else:
            share_norms(child, device)


def _shared(norm: _BatchNorm, kind: type[_BatchNorm]) -> _BatchNorm:
    out = kind(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    out.weight, out.bias = norm.weight, norm.bias
    out.running_mean, out.running_var = norm.running_mean, norm.running_var
    out.num_batches_tracked = norm.num_batches_tracked
    return out.train(norm.training)
