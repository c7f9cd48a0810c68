"""Configurations of the FER-VT family.

Source: Huang et al., "Facial expression recognition with grid-wise attention and visual transformer"
(Information Sciences, 2021), sections 3.2 and 3.3.
"""

from __future__ import annotations

from dataclasses import dataclass

from poster_edge.errors import UsageError
from poster_edge.models.base_config import ModelConfig
from poster_edge.models.resnet_config import RESNET34, ResNetConfig

#: Maps of the trunk that become tokens: its last three stages.
TAPS = 3


@dataclass(frozen=True)
class FerVtConfig(ModelConfig):
    """Grid-wise attention in front of a residual trunk, a transformer on three of its maps behind it.

    Attributes:
        input_size: side S; every grid's rows and columns must divide it, which 216 does for all of the paper's.
        grid: rows and columns of cells that the image is cut into (paper: 3x3; also 3x2 and 4x4).
        grid_attention: weigh the cells (the paper's GWA); without it the trunk sees the image itself.
        transformer: tokens and encoder (the paper's VTA); without it the mean of the last map is classified.
        score_width: hidden channels of the local feature network that the cells' weights come from.
        trunk: the residual network.
        map_width: channels C1 that every tapped map is brought to.
        dim: width D of a token.
        depth: encoder layers.
        heads: attention heads.
        head_dim: width of a head; all together may be wider than D (paper: 8 x 64 on 128).
        mlp_ratio: hidden width of the MLPs over D.
        dropout: on embeddings and on both residual branches.
    """

    input_size: int = 216
    grid: tuple[int, int] = (3, 3)
    grid_attention: bool = True
    transformer: bool = True
    score_width: int = 64
    trunk: ResNetConfig = RESNET34
    map_width: int = 128
    dim: int = 128
    depth: int = 12
    heads: int = 8
    head_dim: int = 64
    mlp_ratio: int = 4
    dropout: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        rows, columns = self.grid
        if self.grid_attention and (self.input_size % rows or self.input_size % columns):
            raise UsageError(
                f"an input of {self.input_size} px does not divide into {rows}x{columns} cells; sides that are a "
                "multiple of 12, such as 216, divide into 3x3, 3x2 and 4x4"
            )
        if len(self.trunk.units) < TAPS:
            raise UsageError(f"FER-VT reads the last {TAPS} stages of its trunk, which has {len(self.trunk.units)}")
        if self.transformer and len(set(self.reduced_sides)) != 1:
            raise UsageError(
                f"an input of {self.input_size} px gives maps of sides {self.tap_sides}, of which no "
                f"stride makes one size"
            )

    @property
    def description(self) -> str:
        """Cells, trunk and encoder."""
        parts = [f"grid {self.grid[0]}x{self.grid[1]}"] if self.grid_attention else []
        # Named as its paper counts: two convolutions a block, the stem and the classifier it had.
        parts.append(f"ResNet-{2 * sum(self.trunk.units) + 2}")
        if self.transformer:
            parts.append(f"depth {self.depth}")
        return ", ".join(parts)

    @property
    def tap_widths(self) -> tuple[int, ...]:
        """Channels of the tapped maps."""
        return self.trunk.widths[-TAPS:]

    @property
    def tap_sides(self) -> tuple[int, ...]:
        """Sides of the tapped maps (published: 27, 14, 7)."""
        return self.trunk.sides(self.input_size)[-TAPS:]

    @property
    def tap_strides(self) -> tuple[int, ...]:
        """Strides that bring the tapped maps to the size of the last (published: 4, 2, 1)."""
        strides = self.trunk.strides[-TAPS:]
        return tuple(_product(strides[i + 1 :]) for i in range(TAPS))

    @property
    def tap_kernels(self) -> tuple[int, ...]:
        """Smallest odd kernels that skip no pixel at these strides (published: 5, 3, 1)."""
        return tuple(s + 1 - s % 2 for s in self.tap_strides)

    @property
    def reduced_sides(self) -> tuple[int, ...]:
        """Sides of the maps after those convolutions: all the same in a possible configuration."""
        settings = zip(self.tap_sides, self.tap_kernels, self.tap_strides, strict=True)
        return tuple((side + 2 * (k // 2) - k) // s + 1 for side, k, s in settings)


def _product(values: tuple[int, ...]) -> int:
    out = 1
    for value in values:
        out *= value
    return out


_NANO = FerVtConfig(
    variant="fer-vt-nano",
    input_size=48,
    score_width=16,
    trunk=ResNetConfig((1, 1, 1, 1), (32, 32, 64, 128), (1, 1, 2, 2), stem_kernel=3, stem_pool=False),
    map_width=32,
    dim=64,
    depth=4,
    heads=4,
    head_dim=16,
)

#: Every configuration of the family.
FER_VT_CONFIGS: tuple[FerVtConfig, ...] = (_NANO, FerVtConfig("fer-vt"))
