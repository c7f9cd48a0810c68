"""BatchNorm folded into convolutions exactly, so that an exported graph has none left.

A BatchNorm after a convolution folds into its weights.  One *before* a zero-padded convolution (the
IR units) does not: the padding is zero after the BatchNorm, so its shift is missing at the border.
There conv(pad(a·x + b)) = conv_a(pad(x)) + conv(pad(b)), and the second term is a constant map.
"""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval


class ShiftedConv2d(nn.Module):
    """A convolution plus a constant map (1, C, h, w): what BatchNorm before a padded convolution is."""

    shift: Tensor

    def __init__(self, conv: nn.Conv2d, shift: Tensor) -> None:
        super().__init__()
        self.conv = conv
        self.register_buffer("shift", shift)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) + self.shift


def fold_batchnorm(model: nn.Module, example: Tensor) -> nn.Module:
    """A copy of a model in evaluation mode without foldable BatchNorms; the same function.

    Args:
        model: any model whose BatchNorms stand next to a convolution in a ``Sequential``, or in
            a module with ``conv`` and ``bn``, ``conv1`` and ``bn1`` …, or ``linear`` and ``bn``.
        example: an input (B, 3, S, S); fixes the sizes of the constant maps.
    """
    model = copy.deepcopy(model).eval()
    sizes = _input_sizes(model, example)
    for module in list(model.modules()):
        if isinstance(module, nn.Sequential):
            _fold_sequential(module, sizes)
        else:
            _fold_attributes(module)
    return model


def remaining_batchnorms(model: nn.Module) -> list[str]:
    """Names of the BatchNorms that are still in a model."""
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d)
    return [name for name, module in model.named_modules() if isinstance(module, kinds)]


def _input_sizes(model: nn.Module, example: Tensor) -> dict[nn.Module, tuple[int, int]]:
    """Height and width of what enters each convolution."""
    sizes: dict[nn.Module, tuple[int, int]] = {}

    def record(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        sizes[module] = (inputs[0].shape[2], inputs[0].shape[3])

    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    hooks = [m.register_forward_pre_hook(record) for m in convolutions]
    with torch.no_grad():
        model(example)
    for hook in hooks:
        hook.remove()
    return sizes


def _fold_sequential(row: nn.Sequential, sizes: dict[nn.Module, tuple[int, int]]) -> None:
    for i in range(len(row) - 1):
        first, second = row[i], row[i + 1]
        if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
            row[i] = fuse_conv_bn_eval(first, second)
            row[i + 1] = nn.Identity()
            sizes[row[i]] = sizes.get(first, (0, 0))
    for i in range(len(row) - 1):
        first, second = row[i], row[i + 1]
        if isinstance(first, nn.BatchNorm2d) and isinstance(second, nn.Conv2d) and second in sizes:
            row[i] = nn.Identity()
            row[i + 1] = _fold_before(first, second, sizes[second])


def _fold_attributes(module: nn.Module) -> None:
    """Fold ``bn`` into ``conv`` or ``linear``, and ``bn1`` into ``conv1`` and so on."""
    for name, bn in list(module.named_children()):
        number = name.removeprefix("bn")
        if not name.startswith("bn") or not (number == "" or number.isdigit()):
            continue
        conv, linear = getattr(module, f"conv{number}", None), getattr(module, f"linear{number}", None)
        if isinstance(bn, nn.BatchNorm2d) and isinstance(conv, nn.Conv2d):
            setattr(module, f"conv{number}", fuse_conv_bn_eval(conv, bn))
            setattr(module, name, nn.Identity())
        elif isinstance(bn, nn.BatchNorm1d) and isinstance(linear, nn.Linear):
            setattr(module, f"linear{number}", fuse_linear_bn_eval(linear, bn))
            setattr(module, name, nn.Identity())


@torch.no_grad()
def _fold_before(bn: nn.BatchNorm2d, conv: nn.Conv2d, size: tuple[int, int]) -> ShiftedConv2d:
    variance, mean = cast(Tensor, bn.running_var), cast(Tensor, bn.running_mean)
    scale = bn.weight * (variance + bn.eps).rsqrt()
    offset = bn.bias - mean * scale
    # C -> 1 x C x h x w
    shift = conv(offset[None, :, None, None].expand(1, -1, *size))
    folded = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        cast(tuple[int, int], conv.kernel_size),
        cast(tuple[int, int], conv.stride),
        cast(tuple[int, int], conv.padding),
        bias=False,
        device=conv.weight.device,
        dtype=conv.weight.dtype,
    )
    folded.weight.copy_(conv.weight * scale[None, :, None, None])
    return ShiftedConv2d(folded, shift)
