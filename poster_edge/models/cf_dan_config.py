"""Configurations of CF-DAN and of its ablations.  No torch here.

Source: Zhang et al., "CF-DAN: Facial-expression recognition based on cross-fusion dual-attention
network" (2024).  The paper leaves much open; what is chosen is said where it is used.
"""

from __future__ import annotations

from dataclasses import dataclass

from poster_edge.errors import UsageError
from poster_edge.models.base_config import ModelConfig
from poster_edge.models.resnet_config import RESNET18, ResNetConfig

ACTIVATIONS = ("pcp", "relu", "gelu", "mish")


@dataclass(frozen=True)
class CfDanConfig(ModelConfig):
    """A residual trunk, layers of dual attention on its last map, one interaction, a linear head.

    Attributes:
        trunk: its last width D and side g give g² tokens of width D.
        layers: dual-attention layers.
        channel_groups: groups of channels in the channel stream (16: the count that fits the published size).
        dam: the dual attention; without it both streams are the trunk's tokens.
        distil: shrink keys and values; without it one window spans all tokens or all channels.
        cross: take keys from the other stream, which tells from the second layer on.
        ilm: the interactive learning between the streams; without it they are added.
        out_proj: a projection behind every attention (absent from what the published size allows).
        activation: of the interactive learning, one of :data:`ACTIVATIONS`.
    """

    trunk: ResNetConfig = RESNET18
    layers: int = 2
    channel_groups: int = 16
    dam: bool = True
    distil: bool = True
    cross: bool = True
    ilm: bool = True
    out_proj: bool = False
    activation: str = "pcp"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.activation not in ACTIVATIONS:
            raise UsageError(f"activation '{self.activation}': expected one of {', '.join(ACTIVATIONS)}")
        if self.layers < 1:
            raise UsageError(f"dual attention needs at least 1 layer, not {self.layers}; dam=False leaves it out")
        if self.dim % (2 * self.channel_groups):
            raise UsageError(f"{self.dim} channels do not divide into {self.channel_groups} groups of an even width")
        if self.distil and self.grid < 2:
            raise UsageError(
                f"an input of {self.input_size} px leaves a {self.grid}x{self.grid} map: too small to distil"
            )

    @property
    def dim(self) -> int:
        """Width D of a token (published: 512)."""
        return self.trunk.widths[-1]

    @property
    def grid(self) -> int:
        """Side g of the token map (published: 7)."""
        return self.trunk.sides(self.input_size)[-1]

    @property
    def description(self) -> str:
        """Trunk, tokens and what is switched off or added."""
        marks = [f"no {name}" for name in ("dam", "distil", "cross", "ilm") if not getattr(self, name)]
        marks += ["output projections"] if self.out_proj else []
        marks += [self.activation] if self.activation != "pcp" else []
        trunk = f"ResNet-{2 * sum(self.trunk.units) + 2}"
        return ", ".join((trunk, f"{self.grid}x{self.grid} tokens", f"{self.dim} wide", *marks))


_NANO = CfDanConfig(
    "cf-dan-nano",
    input_size=48,
    trunk=ResNetConfig(
        units=(1, 1, 1), widths=(32, 64, 128), strides=(1, 2, 2), stem_kernel=3, stem_stride=2, stem_pool=False
    ),
    channel_groups=4,
)

#: A teacher of small pictures, this family's baseline: a ResNet-18 without the halvings before its first stage, whose
#: tokens are averaged without any attention.
_TRUNK = CfDanConfig(
    "cf-dan-48-trunk",
    input_size=48,
    trunk=ResNetConfig(stem_kernel=3, stem_stride=1, stem_pool=False),
    dam=False,
    cross=False,
    ilm=False,
)

CF_DAN_CONFIGS = (_NANO, _TRUNK, CfDanConfig("cf-dan"), CfDanConfig("cf-dan-out-proj", out_proj=True))
