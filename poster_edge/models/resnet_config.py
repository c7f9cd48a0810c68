"""Configurations of the ResNet trunks that FER-VT and CF-DAN stand on.  No torch here.

Source: He et al., "Deep Residual Learning for Image Recognition" (2016), Table 1.
"""

from __future__ import annotations

from dataclasses import dataclass

from poster_edge.errors import UsageError


@dataclass(frozen=True)
class ResNetConfig:
    """A residual network of two-convolution blocks, without pooling and classifier at its end.

    Attributes:
        units: blocks of each stage.
        widths: channels of each stage; the first is the stem's too.
        strides: of each stage's first block.
        stem_kernel: side of the first convolution's kernel.
        stem_stride: of the first convolution.
        stem_pool: a 3x3 max-pooling of stride 2 behind it.
    """

    units: tuple[int, ...] = (2, 2, 2, 2)
    widths: tuple[int, ...] = (64, 128, 256, 512)
    strides: tuple[int, ...] = (1, 2, 2, 2)
    stem_kernel: int = 7
    stem_stride: int = 2
    stem_pool: bool = True

    def __post_init__(self) -> None:
        if not len(self.units) == len(self.widths) == len(self.strides):
            raise UsageError(
                f"a residual network needs as many units {self.units} as widths {self.widths} and strides "
                f"{self.strides}"
            )
        if self.stem_kernel % 2 == 0:
            raise UsageError(f"the stem's kernel must have an odd side, not {self.stem_kernel}")

    def sides(self, size: int) -> tuple[int, ...]:
        """Side of each stage's map for a square input of ``size`` pixels; every stride rounds up."""
        side = -(-size // self.stem_stride)
        side = -(-side // 2) if self.stem_pool else side
        found = []
        for stride in self.strides:
            side = -(-side // stride)
            found.append(side)
        return tuple(found)


RESNET18 = ResNetConfig()
RESNET34 = ResNetConfig(units=(3, 4, 6, 3))
