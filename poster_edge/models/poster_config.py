"""Configurations of the POSTER family.

Source: Zheng et al., "POSTER: A Pyramid Cross-Fusion Transformer Network for Facial Expression
Recognition" (2022), section 3 and Table 1.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from poster_edge.config import Preprocess
from poster_edge.errors import UsageError
from poster_edge.labels import LabelSet
from poster_edge.models.base_config import ModelConfig

STREAMS = ("both", "image", "landmark")
FUSIONS = ("cross", "joint")


@dataclass(frozen=True)
class IRConfig:
    """Image backbone of improved-residual units (ArcFace's IR-50 without its last stage).

    Attributes:
        stem: width of the first convolution.
        stages: (width, units) of each stage; the first unit of a stage halves the map.
        first_stride: what the first unit of the first stage does to the map (published: 2, it halves it).
        pre_norm: BatchNorm before a unit's first convolution (published) instead of after it.
        stride_first: halve in a unit's first convolution instead of its second (published).
        activation: "prelu" (published) or "relu".
        embedding: width of the face-recognition head kept for checkpoints; 0 leaves it out.
    """

    stem: int = 64
    stages: tuple[tuple[int, int], ...] = ((64, 3), (128, 4), (256, 14))
    first_stride: int = 2
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
class PosterConfig(ModelConfig):
    """A whole two-stream pyramid cross-fusion network.

    Attributes:
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
        streams: "both", or "image" or "landmark" alone, which attends to itself.
        fusion: "cross" (published: each stream is asked by the other) or "joint" (one self-attention over the
            tokens of both streams).
        swap_first: in so many first depths a stream's queries come from the other stream, in the rest from
            itself; None: in all.
        q_proj: project the queries, as the paper writes and its code does not.
    """

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
    streams: str = "both"
    fusion: str = "cross"
    swap_first: int | None = None
    q_proj: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(d % (2 * self.heads) for d in self.dims):
            raise UsageError(f"widths {self.dims} do not divide into {self.heads} heads")
        if any(a != 2 * b for a, b in zip(self.dims, self.dims[1:], strict=False)):
            raise UsageError(f"each pyramid level must be half as wide as the one before: {self.dims}")
        side = self.input_size // self.subsample
        if side % self.grid:
            raise UsageError(f"an input of {side} px gives no {self.grid}x{self.grid} grid")
        self._check_switches()

    def _check_switches(self) -> None:
        if self.streams not in STREAMS or self.fusion not in FUSIONS:
            raise UsageError(
                f"streams '{self.streams}', fusion '{self.fusion}': expected one of {', '.join(STREAMS)} and one of "
                f"{', '.join(FUSIONS)}"
            )
        if self.swap_first is not None:
            if not self.crosses:
                raise UsageError("swap_first needs both streams and cross-fusion")
            if not 0 <= self.swap_first <= self.depth:
                raise UsageError(f"swap_first is {self.swap_first}, expected 0 to the depth, {self.depth}")

    @property
    def description(self) -> str:
        """Depth and pyramid widths, and how it differs from the published network."""
        parts = [f"depth {self.depth}, {'/'.join(map(str, self.dims))} wide"]
        if self.image != IRConfig():
            parts.append(f"image stream {'/'.join(str(width) for width, _ in self.image.stages)}")
        if self.streams != "both":
            parts.append(f"{self.streams} stream alone")
        elif self.fusion != "cross":
            parts.append("joint self-attention")
        if self.swap_first is not None:
            parts.append(f"swapped in the first {self.swap_first}")
        return ", ".join([*parts, *(["projected queries"] if self.q_proj else [])])

    @property
    def crosses(self) -> bool:
        """Whether the streams have attention of their own and may ask each other."""
        return self.streams == "both" and self.fusion == "cross"

    def swaps(self, depth: int) -> bool:
        """Whether the streams ask each other at a depth (0 first)."""
        return self.crosses and (self.swap_first is None or depth < self.swap_first)

    def preprocess(self, labels: LabelSet) -> Preprocess:
        """Preprocessing of the published POSTER for one data set.

        The mean and standard deviation are applied in channel-index order whatever the colour order, as
        the authors' loaders do.  The crop margin is ours: the data sets come aligned.
        """
        colour = "rgb" if labels.colour == "gray" else labels.colour
        return Preprocess(size=self.input_size, colour=colour, interpolation="linear")

    @property
    def as_published(self) -> bool:
        """Whether the streams ask each other, unprojected, at every depth, which the fused kernels compute."""
        return self.crosses and not self.q_proj and all(self.swaps(depth) for depth in range(self.depth))

    @property
    def per_stream(self) -> int:
        """Tokens of one stream, its mean token included (published: 50)."""
        return self.grid**2 + 1

    @property
    def tokens(self) -> int:
        """Tokens of all streams together, mean tokens included (published: 100)."""
        return self.per_stream * (2 if self.streams == "both" else 1)

    @property
    def image_token_width(self) -> int:
        """Width of an image token before it is projected to ``dims[0]`` (published: 1024)."""
        width = self.image.stages[-1][0]
        halvings = len(self.image.stages) - (self.image.first_stride == 1)
        side = self.input_size // self.subsample // 2**halvings
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

#: poster-nano with an image stream twice as wide and a unit deeper: three and a half times its operations.
_MICRO = replace(
    _NANO,
    variant="poster-micro",
    drop_path=0.1,
    image=replace(_NANO.image, stages=((64, 2), (128, 2), (256, 2))),
)

#: poster-micro, and one unit more at the image's full resolution in front of it.
_MINI = replace(
    _MICRO,
    variant="poster-mini",
    image=replace(_NANO.image, stages=((32, 1), (64, 2), (128, 2), (256, 2)), first_stride=1),
)

#: poster-nano's teacher: the same input, a ResNet-18's worth of image stream and a wider transformer.
_TEACHER = replace(
    _NANO,
    variant="poster-48",
    dims=(256, 128, 64),
    heads=4,
    drop_path=0.1,
    image=replace(_NANO.image, stem=64, stages=((64, 2), (128, 2), (256, 2), (512, 2)), first_stride=1),
)

#: Every configuration of the family.
POSTER_CONFIGS: tuple[PosterConfig, ...] = (
    _NANO,
    _MICRO,
    _MINI,
    _TEACHER,
    PosterConfig("poster-t", depth=4),
    PosterConfig("poster-s", depth=6),
    PosterConfig("poster", depth=8),
    PosterConfig("poster-t-affectnet", depth=4, mix=False),
    PosterConfig("poster-s-affectnet", depth=6, mix=False),
    PosterConfig("poster-affectnet", depth=8, mix=False),
)
