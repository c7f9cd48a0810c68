"""Residual trunk of two-convolution blocks (ResNet-18, ResNet-34 and narrower ones).

Source: He et al., "Deep Residual Learning for Image Recognition" (2016), Table 1 and Fig. 5.
Attribute names are torchvision's, so that its ImageNet weights load.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from poster_edge.models.resnet_config import ResNetConfig


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, ReLU after the sum: (B, W, h, w) -> (B, W', h/s, w/s)."""

    def __init__(self, in_width: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_width, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or in_width != width:
            self.downsample = nn.Sequential(nn.Conv2d(in_width, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(y)) + self.downsample(x))


class ResNet(nn.Module):
    """Trunk of a :class:`ResNetConfig`: (B, 3, S, S) -> (B, W, S', S') of its last stage."""

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        width = config.widths[0]
        self.conv1 = nn.Conv2d(3, width, config.stem_kernel, config.stem_stride, config.stem_kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool: nn.Module = nn.MaxPool2d(3, 2, 1) if config.stem_pool else nn.Identity()
        self.layer_names = [f"layer{i}" for i in range(1, len(config.units) + 1)]
        stages = zip(self.layer_names, config.units, config.widths, config.strides, strict=True)
        for name, units, stage_width, stride in stages:
            blocks = []
            for i in range(units):
                blocks.append(BasicBlock(width, stage_width, stride if i == 0 else 1))
                width = stage_width
            self.add_module(name, nn.Sequential(*blocks))
        initialise(self)

    def stages(self, x: Tensor) -> list[Tensor]:
        """The map that each stage ends with, largest first."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        maps = []
        for name in self.layer_names:
            x = cast(nn.Module, getattr(self, name))(x)
            maps.append(x)
        return maps

    def forward(self, x: Tensor) -> Tensor:
        return self.stages(x)[-1]


def initialise(trunk: nn.Module) -> None:
    """Start convolutions normal with the variance that keeps ReLU's outputs' (He et al., 2015, eq. 10)."""
    for module in trunk.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
