"""Configurations of the POSTER family: variants differ by a few integers, never by code paths.

Source: Zheng et al., "POSTER: A Pyramid Cross-Fusion Transformer Network for Facial Expression
Recognition" (2022), section 3 and Table 1.  No torch here, so that listing models needs none.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from poster_edge.errors import UsageError


@dataclass(frozen=True)
class IRConfig:
    """Image backbone of improved-residual units (ArcFace's IR-50 without its last stage).

    Attributes:
        stem: width of the first convolution.
        stages: (width, units) of each stage; the first unit of a stage halves the map.
        pre_norm: BatchNorm before a unit's first convolution (published) instead of after it.
        stride_first: halve in a unit's first convolution instead of its second (published).
        activation: "prelu" (published) or "relu".
        embedding: width of the face-recognition head kept for checkpoints; 0 leaves it out.
    """

    stem: int = 64
    stages: tuple[tuple[int, int], ...] = ((64, 3), (128, 4), (256, 14))
    pre_norm: bool = True
    stride_first: bool = False
    activation: str = "prelu"
    embedding: int = 512


@dataclass(frozen=True)
class LandmarkStage:
    """One stage of the landmark backbone: a halving unit, then residual units.

    Attributes:
        width: channels between units.
        expand_down: depthwise channels of the halving unit.
        units: number of residual units.
        expand: depthwise channels of the residual units.
    """

    width: int
    expand_down: int
    units: int
    expand: int


@dataclass(frozen=True)
class LandmarkConfig:
    """Landmark backbone (MobileFaceNet), pre-trained to predict 68 points and then frozen.

    Attributes:
        stem: width of the first, halving convolution.
        stages: see :class:`LandmarkStage`.
        activation: "prelu" (published) or "relu".
    """

    stem: int = 64
    stages: tuple[LandmarkStage, ...] = (
        LandmarkStage(64, 128, 4, 128),
        LandmarkStage(128, 256, 6, 256),
        LandmarkStage(128, 512, 2, 256),
    )
    activation: str = "prelu"


@dataclass(frozen=True)
class PosterConfig:
    """A whole two-stream pyramid cross-fusion network.

    Attributes:
        variant: name of the configuration.
        num_classes: C.
        input_size: side of the square input in pixels.
        subsample: both backbones see every ``subsample``-th pixel (published: 2).
        grid: side of the token map; tokens per stream are ``grid**2`` plus a mean token.
        dims: width D of each pyramid level, each half of the one before.
        heads: attention heads at every level.
        depth: number of stages of three blocks.
        mlp_ratio: hidden width of the MLPs over D.
        mix: token-mixing convolution at the end of a block (absent in the AffectNet code).
        raw_tokens: read image tokens from the flat NCHW order (published) instead of per position.
        cls_token: keep the unused class token of the published state dict.
        drop_path: stochastic depth at the last stage, rising linearly from 0.
    """

    variant: str
    num_classes: int = 7
    input_size: int = 224
    subsample: int = 2
    grid: int = 7
    dims: tuple[int, ...] = (512, 256, 128)
    heads: int = 8
    depth: int = 8
    mlp_ratio: int = 2
    mix: bool = True
    raw_tokens: bool = True
    cls_token: bool = True
    drop_path: float = 0.1
    image: IRConfig = IRConfig()
    landmark: LandmarkConfig = LandmarkConfig()

    def __post_init__(self) -> None:
        if self.num_classes < 2:
            raise UsageError(f"a classifier needs at least 2 classes, not {self.num_classes}")
        if any(d % (2 * self.heads) for d in self.dims):
            raise UsageError(f"widths {self.dims} do not divide into {self.heads} heads")
        if any(a != 2 * b for a, b in zip(self.dims, self.dims[1:], strict=False)):
            raise UsageError(f"each pyramid level must be half as wide as the one before: {self.dims}")
        side = self.input_size // self.subsample
        if side % self.grid:
            raise UsageError(f"an input of {side} px gives no {self.grid}x{self.grid} grid")

    @property
    def tokens(self) -> int:
        """Tokens of both streams together, mean tokens included (published: 100)."""
        return 2 * (self.grid**2 + 1)

    @property
    def image_token_width(self) -> int:
        """Width of an image token before it is projected to ``dims[0]`` (published: 1024)."""
        width = self.image.stages[-1][0]
        side = self.input_size // self.subsample // 2 ** len(self.image.stages)
        return width * side**2 // self.grid**2


_NANO = PosterConfig(
    variant="poster-nano",
    input_size=48,
    subsample=1,
    grid=6,
    dims=(128, 64, 32),
    heads=2,
    depth=2,
    raw_tokens=False,
    cls_token=False,
    drop_path=0.05,
    image=IRConfig(
        stem=32,
        stages=((32, 1), (64, 2), (128, 1)),
        pre_norm=False,
        stride_first=True,
        activation="relu",
        embedding=0,
    ),
    landmark=LandmarkConfig(
        stem=16,
        stages=(LandmarkStage(24, 48, 2, 48), LandmarkStage(48, 96, 3, 96)),
        activation="relu",
    ),
)

#: Every configuration by name; see :mod:`poster_edge.models.registry` for what is known of each.
CONFIGS: dict[str, PosterConfig] = {
    c.variant: c
    for c in (
        _NANO,
        PosterConfig("poster-t", depth=4),
        PosterConfig("poster-s", depth=6),
        PosterConfig("poster", depth=8),
        PosterConfig("poster-t-affectnet", depth=4, mix=False),
        PosterConfig("poster-s-affectnet", depth=6, mix=False),
        PosterConfig("poster-affectnet", depth=8, mix=False),
    )
}


def model_config(name: str, *, num_classes: int | None = None) -> PosterConfig:
    """Configuration of a model by name, optionally with another number of classes.

    Raises:
        UsageError: unknown name; lists the known ones.
    """
    if name not in CONFIGS:
        raise UsageError(f"unknown model '{name}'; known: {', '.join(CONFIGS)}")
    config = CONFIGS[name]
    return config if num_classes is None else replace(config, num_classes=num_classes)
