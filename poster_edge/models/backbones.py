"""Backbones of the two streams: improved-residual network and MobileFaceNet.

Sources: Deng et al., "ArcFace" (2019), section 3.1 (IR units); Chen et al., "MobileFaceNets"
(2018), Table 1.  Attribute names follow the published POSTER checkpoints.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from poster_edge.models.layers import activation, every_kth
from poster_edge.models.network import LandmarkNetwork
from poster_edge.models.poster_config import IRConfig, LandmarkConfig

LANDMARKS = 68


class IRUnit(nn.Module):
    """Residual unit of two 3x3 convolutions, no activation after the sum.

    Published order: BN, conv, PReLU, strided conv, BN.
    """

    def __init__(self, in_width: int, width: int, stride: int, config: IRConfig) -> None:
        super().__init__()
        first, second = (stride, 1) if config.stride_first else (1, stride)
        layers: list[nn.Module] = [nn.BatchNorm2d(in_width)] if config.pre_norm else []
        layers.append(nn.Conv2d(in_width, width, 3, first, 1, bias=False))
        if not config.pre_norm:
            layers.append(nn.BatchNorm2d(width))
        layers += [
            activation(config.activation, width),
            nn.Conv2d(width, width, 3, second, 1, bias=False),
            nn.BatchNorm2d(width),
        ]
        self.res_layer = nn.Sequential(*layers)
        self.shortcut_layer: nn.Module
        if in_width == width:
            self.shortcut_layer = nn.MaxPool2d(1, stride) if stride > 1 else nn.Identity()
        else:
            self.shortcut_layer = nn.Sequential(
                nn.Conv2d(in_width, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x: Tensor) -> Tensor:
        return self.res_layer(x) + self.shortcut_layer(x)


class IRNet(nn.Module):
    """Image stream: (B, 3, S, S) -> (B, W, S/2^k, S/2^k) for k stages."""

    def __init__(self, config: IRConfig) -> None:
        super().__init__()
        self.input_layer = nn.Sequential(
            nn.Conv2d(3, config.stem, 3, 1, 1, bias=False),
            nn.BatchNorm2d(config.stem),
            activation(config.activation, config.stem),
        )
        units, width = [], config.stem
        for stage, (stage_width, count) in enumerate(config.stages):
            for index in range(count):
                halve = config.first_stride if stage == 0 else 2
                units.append(IRUnit(width, stage_width, halve if index == 0 else 1, config))
                width = stage_width
        self.body = nn.Sequential(*units)
        if config.embedding:
            # The face-recognition head of the published file (512 maps of 7x7).  It never runs.
            self.output_layer = nn.Sequential(
                nn.BatchNorm2d(config.embedding),
                nn.Dropout(),
                nn.Flatten(),
                nn.Linear(config.embedding * 49, config.embedding),
                nn.BatchNorm1d(config.embedding),
            )

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self.input_layer(x))


class ConvBlock(nn.Module):
    """Convolution, BatchNorm and, unless ``act`` is empty, an activation."""

    def __init__(
        self, in_width: int, width: int, kernel: int, stride: int, groups: int = 1, *, act: str, pad: int | None = None
    ) -> None:
        super().__init__()
        padding = kernel // 2 if pad is None else pad
        self.conv = nn.Conv2d(in_width, width, kernel, stride, padding, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(width)
        if act:
            self.prelu = activation(act, width)
        self.act = bool(act)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.conv(x))
        return self.prelu(x) if self.act else x


class DepthwiseUnit(nn.Module):
    """1x1 expand, 3x3 depthwise, 1x1 project; with a residual sum when ``residual``."""

    def __init__(self, in_width: int, width: int, expand: int, stride: int, *, act: str, residual: bool) -> None:
        super().__init__()
        self.conv = ConvBlock(in_width, expand, 1, 1, act=act)
        self.conv_dw = ConvBlock(expand, expand, 3, stride, expand, act=act)
        self.project = ConvBlock(expand, width, 1, 1, act="")
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.conv_dw(self.conv(x)))
        return x + y if self.residual else y


class DepthwiseStack(nn.Module):
    """A row of residual depthwise units."""

    def __init__(self, width: int, expand: int, units: int, *, act: str) -> None:
        super().__init__()
        self.model = nn.Sequential(
            *(DepthwiseUnit(width, width, expand, 1, act=act, residual=True) for _ in range(units))
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class LandmarkHead(nn.Module):
    """Global depthwise convolution and a linear layer: (B, W, g, g) -> (B, 136)."""

    def __init__(self, width: int, grid: int) -> None:
        super().__init__()
        self.conv_6_dw = ConvBlock(width, width, grid, 1, width, act="", pad=0)
        self.linear = nn.Linear(width, 2 * LANDMARKS, bias=False)
        self.bn = nn.BatchNorm1d(2 * LANDMARKS)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.linear(self.conv_6_dw(x).flatten(1)))


class MobileFaceNet(LandmarkNetwork):
    """Landmark stream: (B, 3, S, S), subsampled -> (B, W, g, g); its head predicts 68 points.

    Args:
        config: widths and repeats.
        out_width: W, the width of the landmark tokens.
        grid: g, the side of the last map.
        subsample: what it sees of an image is every so many pixels of it; points are found in whole images.
    """

    #: Stage i of the configuration is stored as ``conv_23``/``conv_3`` and so on.
    NAMES = (("conv_23", "conv_3"), ("conv_34", "conv_4"), ("conv_45", "conv_5"))

    def __init__(self, config: LandmarkConfig, out_width: int, grid: int, subsample: int = 1) -> None:
        super().__init__()
        act = config.activation
        self.subsample = subsample
        self.conv1 = ConvBlock(3, config.stem, 3, 2, act=act)
        self.conv2_dw = ConvBlock(config.stem, config.stem, 3, 1, config.stem, act=act)
        self.stage_names = self.NAMES[: len(config.stages)]
        width = config.stem
        for (down, stack), stage in zip(self.stage_names, config.stages, strict=True):
            setattr(self, down, DepthwiseUnit(width, stage.width, stage.expand_down, 2, act=act, residual=False))
            setattr(self, stack, DepthwiseStack(stage.width, stage.expand, stage.units, act=act))
            width = stage.width
        self.conv_6_sep = ConvBlock(width, out_width, 1, 1, act=act)
        self.output_layer = LandmarkHead(out_width, grid)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv2_dw(self.conv1(x))
        for down, stack in self.stage_names:
            x = getattr(self, stack)(getattr(self, down)(x))
        return self.conv_6_sep(x)

    def landmarks(self, x: Tensor) -> Tensor:
        """Predicted points (B, 68, 2) of whole images, x and y as fractions of the side (0..1 inside it)."""
        # B x 136 -> B x 68 x 2
        return self.output_layer(self(every_kth(x, self.subsample))).reshape(-1, LANDMARKS, 2)

    @torch.no_grad()
    def start_at(self, points: Tensor) -> None:
        """Let the head's final BatchNorm begin at the mean face, which saves the first epochs."""
        # n x 68 x 2 -> n x 136
        flat = points.reshape(len(points), -1)
        self.output_layer.bn.bias.copy_(flat.mean(dim=0))
        self.output_layer.bn.weight.copy_(flat.std(dim=0))
