"""Sizes of one cross-fusion depth, and where each level lies in the kernels' flat buffers.

All levels of a token stand side by side in one row of W = D0 + D1 + … values, widest first, so that
one launch reaches every level with the same strides; both streams are rows 0…N-1 (image) and
N…2N-1 (landmark) of a sample.  Source of the network: Zheng et al., "POSTER" (2022), Fig. 3.
"""

from __future__ import annotations

from dataclasses import dataclass

#: Names of the levels in a state dict, widest first.
LEVEL_NAMES = ("l", "m", "s", "x")
#: A level's modules in a state dict: norm before attention, attention, norm before the MLP, MLP.
STREAM_NAMES = (("norm1", "attn_img", "norm2", "mlp1"), ("norm3", "attn_lm", "norm4", "mlp2"))
LN_EPS = 1e-6


@dataclass(frozen=True)
class FusionShape:
    """Sizes of one depth.

    Attributes:
        per_stream: N, tokens of one stream.
        heads: H, the same at every level.
        dims: width D of each level, each half of the one before.
        mix: whether a block ends with the token-mixing convolution.
        ratio: hidden width of the MLPs over D.
    """

    per_stream: int
    heads: int
    dims: tuple[int, ...]
    mix: bool
    ratio: int = 2

    @property
    def levels(self) -> int:
        """Number of pyramid levels L."""
        return len(self.dims)

    @property
    def tokens(self) -> int:
        """Tokens of both streams, T = 2N."""
        return 2 * self.per_stream

    @property
    def padded(self) -> int:
        """T rounded up to a power of two: side of a packed token-mixing matrix."""
        return max(16, 1 << (self.tokens - 1).bit_length())

    @property
    def width(self) -> int:
        """W, values of one token over all levels."""
        return sum(self.dims)

    def column(self, level: int) -> int:
        """First column of a level within a row of W."""
        return sum(self.dims[:level])

    def head_width(self, level: int) -> int:
        """Width of one head, and of the slab of columns that one program of most kernels serves."""
        return self.dims[level] // self.heads

    def squares(self, level: int) -> int:
        """Σ D² of the levels before this one: unit of offsets into packed weights."""
        return sum(d * d for d in self.dims[:level])

    def unsupported(self) -> str | None:
        """Why the fused kernels cannot serve these sizes, or None."""
        if not 1 <= self.levels <= 3:
            return f"{self.levels} pyramid levels (1 to 3 are served)"
        if any(a != 2 * b for a, b in zip(self.dims, self.dims[1:], strict=False)):
            return f"widths {self.dims} do not halve from level to level"
        if self.heads & (self.heads - 1) or any(d & (d - 1) for d in self.dims):
            return f"widths {self.dims} and {self.heads} heads are not powers of two"
        narrowest = self.head_width(self.levels - 1)
        if narrowest < 16:
            return f"heads {narrowest} wide (at least 16 are needed)"
        return None if self.per_stream <= 64 else f"{self.per_stream} tokens a stream (at most 64 are served)"
