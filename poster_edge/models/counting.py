"""Parameters and operations of a network, by this project's count and by the POSTER paper's.

The true count has 2 operations per multiply-add of every convolution and matrix product, attention
included, and nothing else.  The paper's is twice what ptflops 0.6.9 counts as multiply-adds, which found
all its published figures: modules only, so attention's own products are missing; a transposed convolution by
its outputs, twice what it computes at stride 2; and one a value for activations and pooling, two for BatchNorm.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from poster_edge.models.base_config import ModelConfig
from poster_edge.models.build import build_network
from poster_edge.models.network import live_parameters


@dataclass(frozen=True)
class Counts:
    """Size and cost of one image.

    Attributes:
        parameters: all that a checkpoint holds, buffers not counted.
        live_parameters: those that take part in inference.
        fusion_parameters: of POSTER's transformer alone; 0 for other networks.
        flops: 2 per multiply-add, attention included.
        paper_flops: by the POSTER paper's convention.
    """

    parameters: int
    live_parameters: int
    fusion_parameters: int
    flops: int
    paper_flops: int


def count(config: ModelConfig) -> Counts:
    """Build the network of a configuration without memory for its weights, and count."""
    with torch.device("meta"):
        network = build_network(config).eval()
        x = torch.empty(1, 3, config.input_size, config.input_size)
        with torch.no_grad(), FlopCounterMode(display=False) as counter, _Modules(network) as modules:
            network(x)
    fusion = getattr(network, "pyramid_fuse", None)
    return Counts(
        parameters=sum(p.numel() for p in network.parameters()),
        live_parameters=live_parameters(network),
        fusion_parameters=0 if fusion is None else sum(p.numel() for p in fusion.parameters()),
        flops=int(counter.get_total_flops()),
        paper_flops=2 * modules.total,
    )


class _Modules:
    """Within this context the multiply-adds of every module that runs are added up, the paper's way."""

    def __init__(self, network: nn.Module) -> None:
        self.network, self.total = network, 0
        self._handles: list[Any] = []

    def __enter__(self) -> _Modules:
        for module in self.network.modules():
            rule = next((r for kinds, r in _RULES if isinstance(module, kinds)), None)
            if rule is not None:
                self._handles.append(module.register_forward_hook(self._hook(rule)))
        return self

    def _hook(self, rule: Callable[[Any, Tensor, Tensor], int]) -> Callable[..., None]:
        def add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            self.total += rule(module, inputs[0], output)

        return add

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()


def _convolution(module: Any, x: Tensor, y: Tensor) -> int:
    positions = y.shape[0] * y.shape[2:].numel()
    kernel = torch.Size(module.kernel_size).numel() * module.in_channels * (module.out_channels // module.groups)
    return positions * (kernel + (module.out_channels if module.bias is not None else 0))


def _linear(module: nn.Linear, x: Tensor, y: Tensor) -> int:
    return x.numel() * module.out_features + (module.out_features if module.bias is not None else 0)


_RULES: tuple[tuple[tuple[type[nn.Module], ...], Callable[[Any, Tensor, Tensor], int]], ...] = (
    ((nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d), _convolution),
    ((nn.Linear,), _linear),
    ((nn.BatchNorm1d, nn.BatchNorm2d), lambda module, x, y: x.numel() * (2 if module.affine else 1)),
    ((nn.ReLU, nn.PReLU, nn.LeakyReLU, nn.GELU), lambda module, x, y: y.numel()),
    ((nn.MaxPool2d, nn.AdaptiveAvgPool2d), lambda module, x, y: x.numel()),
)
