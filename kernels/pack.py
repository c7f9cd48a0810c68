"""Packs one depth's weights for the fused kernels: constants folded, all levels and streams in flat tensors.

What is folded, in float64, before anything is rounded:

* LayerNorm's scale γ and shift β go into the next weight and bias.
* The bias of K and the part of K that β makes add the same number to every logit of a query, which
  softmax does not see: both are dropped.
* Attention weights sum to 1, so V's bias and β's part of V pass through attention unchanged; their
  projection is added to the projection's bias.
* The queries are normed tokens of the other stream, so γ and β stay with them, multiplied by
  scale·log2(e): the kernels' softmax is 2^x.  (Folded into K's weight instead, small weights would
  leave FP16's normal range.)
* A level's upsampling bias is added to the token-mixing bias of the level above.

INT8 weights are symmetric per output row.  Rows that meet LayerNorm's output may be shifted as a whole, because its
columns add up to zero: they are centred between their extremes, which makes the range smaller.  Then each row takes
the scale, of a few, that leaves the least squared error.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from poster_edge.errors import UsageError
from poster_edge.kernels.shape import LEVEL_NAMES, STREAM_NAMES, FusionShape

#: Precision -> type of the activations (and of the weights, but for INT8 weights).
ACTIVATIONS = {
    "fp64": torch.float64,
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "w8a16": torch.float16,
}


@dataclass(frozen=True)
class PackedDepth:
    """Weights of one depth.  All tensors are contiguous; vectors are float32 (float64 in "fp64").

    A matrix tensor is flat: levels one after another, widest first; within a level the image stream,
    then the landmark stream; within a stream (out, in) rows as in ``nn.Linear``.  R is the MLP ratio.

    Attributes:
        shape: the sizes.
        precision: key of :data:`ACTIVATIONS`.
        kv: (ΣL 2·2D·D) K rows, then V rows, each (D, D).
        kv_scale: (2 streams, 2, W) factor of each output row: 1 unless the weights are INT8.
        query: (2 streams, 2, W) factor and shift of the queries.
        proj: (ΣL 2·D·D); proj_scale, proj_bias: (2, W).
        fc1: (ΣL 2·RD·D); fc1_scale, fc1_bias: (2, R·W), level ℓ from column R·column(ℓ).
        fc2: (ΣL 2·D·RD); fc2_scale, fc2_bias: (2, W).
        mix: (L, P, P) token mixing (out, in), zeros beyond T, P = ``shape.padded``; empty without mix.
        up: (L-1, 2, P, P) upsampling of level i+1 into i: even columns, then odd ones.
        token_bias: (L, P) bias of each token, of mixing and upsampling together.
    """

    shape: FusionShape
    precision: str
    kv: Tensor
    kv_scale: Tensor
    query: Tensor
    proj: Tensor
    proj_scale: Tensor
    proj_bias: Tensor
    fc1: Tensor
    fc1_scale: Tensor
    fc1_bias: Tensor
    fc2: Tensor
    fc2_scale: Tensor
    fc2_bias: Tensor
    mix: Tensor
    up: Tensor
    token_bias: Tensor

    @property
    def dtype(self) -> torch.dtype:
        """Type of the activations."""
        return ACTIVATIONS[self.precision]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.kv.device

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("shape", "precision")}

    def to(self, device: torch.device | str) -> PackedDepth:
        """The same weights elsewhere."""
        return PackedDepth(self.shape, self.precision, **{k: v.to(device) for k, v in self.tensors().items()})

    def nbytes(self) -> int:
        """Size in bytes of all tensors."""
        return sum(t.nbytes for t in self.tensors().values())


def infer_shape(state: Mapping[str, Tensor], *, heads: int, prefix: str = "") -> FusionShape:
    """Sizes of a depth from its entries; only the number of heads cannot be seen.

    Raises:
        UsageError: no block under the prefix.
    """
    names = [n for n in LEVEL_NAMES if f"{prefix}block_{n}.norm1.weight" in state]
    if not names:
        raise UsageError(f"no entries '{prefix}block_l.…' to pack")
    dims = tuple(len(state[f"{prefix}block_{n}.norm1.weight"]) for n in names)
    mix = f"{prefix}block_l.conv.weight" in state
    tokens = f"{prefix}block_l.conv.weight" if mix else f"{prefix}upsample_m.weight"
    if tokens not in state:
        raise UsageError("the number of tokens cannot be seen in a single level without token mixing")
    ratio = len(state[f"{prefix}block_l.mlp1.fc1.bias"]) // dims[0]
    return FusionShape(state[tokens].shape[0] // 2, heads, dims, mix, ratio)


def pack(
    state: Mapping[str, Tensor],
    *,
    heads: int,
    precision: str = "fp16",
    prefix: str = "",
    shape: FusionShape | None = None,
) -> PackedDepth:
    """Pack one depth.

    Args:
        state: entries ``{prefix}block_l.norm1.weight`` … as POSTER's state dict names them.
        heads: H.
        precision: key of :data:`ACTIVATIONS`; "w8a16" rounds the linear layers to INT8, symmetric
            per output channel, and keeps everything else in FP16.
        prefix: what stands before the entries.
        shape: the sizes, where they cannot be inferred.

    Raises:
        UsageError: unknown precision or missing entries.
    """
    if precision not in ACTIVATIONS:
        raise UsageError(f"unknown precision '{precision}'; known: {', '.join(ACTIVATIONS)}")
    shape = shape or infer_shape(state, heads=heads, prefix=prefix)
    entries = {k[len(prefix) :]: v.detach().double() for k, v in state.items() if k.startswith(prefix)}
    levels = [
        [_fold_stream(entries, f"block_{LEVEL_NAMES[i]}.", stream, shape.head_width(i)) for stream in STREAM_NAMES]
        for i in range(shape.levels)
    ]
    linear = {
        name: _pack_linear([[s[name] for s in level] for level in levels], precision, normed=name in _AFTER_NORM)
        for name in _LINEAR
    }
    vectors = {
        name: _join_vectors([[s[name] for s in level] for level in levels])
        for name in ("query", "proj_bias", "fc1_bias", "fc2_bias")
    }
    matrices = {name: values for name, (values, _) in linear.items()}
    scales = {f"{name}_scale": scale for name, (_, scale) in linear.items()}
    return _cast(shape, precision, {**matrices, **scales, **vectors, **_token_matrices(entries, shape)})


_LINEAR = ("kv", "proj", "fc1", "fc2")
#: Those whose input is LayerNorm's output without scale and shift, which adds up to zero.
_AFTER_NORM = ("kv", "fc1")
#: Scales of an INT8 row that are tried, as fractions of the one that just reaches its largest weight.
_FRACTIONS = tuple(0.9 + 0.005 * i for i in range(25))


def _fold_stream(entries: dict[str, Tensor], block: str, names: tuple[str, ...], head_width: int) -> dict[str, Tensor]:
    norm, attn, norm_mlp, mlp = (block + n for n in names)
    gamma, beta = entries[f"{norm}.weight"], entries[f"{norm}.bias"]
    kv, proj, fc1 = (entries[f"{n}.weight"] for n in (f"{attn}.kv", f"{attn}.proj", f"{mlp}.fc1"))
    # D: the V half of 2D
    shift_v = (kv @ beta + entries[f"{attn}.kv.bias"])[len(gamma) :]
    scale = head_width**-0.5 * math.log2(math.e)
    return {
        "kv": (kv * gamma).reshape(2, len(gamma), len(gamma)),  # 2D x D -> 2 x D x D
        "query": torch.stack((gamma, beta)) * scale,
        "proj": proj,
        "proj_bias": entries[f"{attn}.proj.bias"] + proj @ shift_v,
        "fc1": fc1 * entries[f"{norm_mlp}.weight"],
        "fc1_bias": entries[f"{mlp}.fc1.bias"] + fc1 @ entries[f"{norm_mlp}.bias"],
        "fc2": entries[f"{mlp}.fc2.weight"],
        "fc2_bias": entries[f"{mlp}.fc2.bias"],
    }


def _pack_linear(levels: list[list[Tensor]], precision: str, *, normed: bool) -> tuple[Tensor, Tensor]:
    """Flat weights and the scales of their rows; levels x streams of (…, out, in)."""
    weights, scales = [], []
    for level in levels:
        weight = torch.stack(level)  # 2 x … x out x in
        scale = torch.ones_like(weight[..., 0])
        if precision == "w8a16":
            weight, scale = _int8_rows(weight, normed=normed)
        weights.append(weight)
        scales.append(scale)
    return torch.cat([w.flatten() for w in weights]), torch.cat(scales, dim=-1)


def _int8_rows(weight: Tensor, *, normed: bool) -> tuple[Tensor, Tensor]:
    """Whole numbers from -127 to 127 and the scale of each row that leaves the least squared error, (…, out, in)."""
    if normed:
        weight = weight - (weight.amax(dim=-1, keepdim=True) + weight.amin(dim=-1, keepdim=True)) / 2
    largest = weight.abs().amax(dim=-1) / 127
    # In float32, as the kernels read it; a row of zeros keeps its zeros.
    largest = torch.where(largest == 0, 1.0, largest)
    # Half the memory to go through 25 times; which scale is best does not hang on the last digits.
    rough, least, scale = weight.float(), torch.full_like(largest, math.inf), largest
    for fraction in _FRACTIONS:
        tried = (largest * fraction).float()
        error = (rough / tried[..., None]).round_().clamp_(-127, 127).mul_(tried[..., None]).sub_(rough)
        squared = error.square().sum(dim=-1)
        if normed:
            # What the whole row is off by meets columns that add up to zero.
            squared -= error.sum(dim=-1).square() / weight.shape[-1]
        least, scale = torch.where(squared < least, squared, least), torch.where(squared < least, tried.double(), scale)
    return (weight / scale[..., None]).round().clamp(-127, 127), scale


def _join_vectors(levels: list[list[Tensor]]) -> Tensor:
    """Levels x streams of (…, D) -> (2 streams, …, W)."""
    return torch.cat([torch.stack(level) for level in levels], dim=-1)


def _token_matrices(entries: dict[str, Tensor], shape: FusionShape) -> dict[str, Tensor]:
    """Token mixing and upsampling, padded with zeros to P x P."""
    t, p = shape.tokens, shape.padded
    reference = entries["block_l.norm1.weight"]
    mix = reference.new_zeros((shape.levels, p, p) if shape.mix else 0)
    up = reference.new_zeros(max(shape.levels - 1, 0), 2, p, p)
    bias = reference.new_zeros(shape.levels, p)
    for i, name in enumerate(LEVEL_NAMES[: shape.levels]):
        if shape.mix:
            mix[i, :t, :t] = entries[f"block_{name}.conv.weight"].squeeze(-1)  # T x T x 1 -> T x T
            bias[i, :t] += entries[f"block_{name}.conv.bias"]
        if i:
            # in x out x k -> k x out x in
            up[i - 1, :, :t, :t] = entries[f"upsample_{name}.weight"].permute(2, 1, 0)
            bias[i - 1, :t] += entries[f"upsample_{name}.bias"]
    return {"mix": mix, "up": up, "token_bias": bias}


def _cast(shape: FusionShape, precision: str, tensors: dict[str, Tensor]) -> PackedDepth:
    dtype = ACTIVATIONS[precision]
    vector = torch.float64 if precision == "fp64" else torch.float32
    types: dict[str, Any] = {"mix": dtype, "up": dtype}
    types |= dict.fromkeys(_LINEAR, torch.int8 if precision == "w8a16" else dtype)
    return PackedDepth(shape, precision, **{k: v.to(types.get(k, vector)).contiguous() for k, v in tensors.items()})
