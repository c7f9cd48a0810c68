"""The oracle and the packed weights against POSTER's own modules, in float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from poster_edge.errors import UsageError
from poster_edge.kernels import reference
from poster_edge.kernels.pack import PackedDepth, infer_shape, pack
from poster_edge.kernels.shape import FusionShape
from poster_edge.models.config import CONFIGS
from poster_edge.models.fusion import FusionStage
from poster_edge.models.poster_config import PosterConfig

CASES = {
    "nano": CONFIGS["poster-nano"],
    "nano-no-mix": replace(CONFIGS["poster-nano"], mix=False),
    "two-levels": replace(CONFIGS["poster-nano"], grid=3, dims=(64, 32)),
    "wide-mlp": replace(CONFIGS["poster-nano"], grid=2, dims=(64, 32), mlp_ratio=4),
    "poster": CONFIGS["poster"],
}


def stage(config: PosterConfig, seed: int = 0) -> FusionStage:
    """A depth with weights of every kind away from their start, biases and norms too."""
    torch.manual_seed(seed)
    module = FusionStage(config, 0.0).double().eval().requires_grad_(False)
    for name, value in module.named_parameters():
        value.normal_(std=value[0].numel() ** -0.5 if value.ndim > 1 else 0.1)
        if "norm" in name and name.endswith("weight"):
            value += 1
    return module


def pyramid(config: PosterConfig, batch: int, seed: int = 1) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, config.tokens, d, dtype=torch.float64, generator=generator) for d in config.dims]


@pytest.mark.parametrize("name", CASES)
def test_depth_is_the_models(name: str) -> None:
    config = CASES[name]
    module = stage(config)
    levels = pyramid(config, 2)
    packed = pack(module.state_dict(), heads=config.heads, precision="fp64")
    found = reference.split_levels(reference.depth(reference.join_levels(levels), packed), packed.shape)
    for a, b in zip(found, module(levels), strict=True):
        assert (a - b).norm() / b.norm() < 1e-12


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "w8a16"])
def test_packed_weights_are_the_rounded_ones(precision: str) -> None:
    config = CASES["nano"]
    state = stage(config).state_dict()
    packed, exact = (pack(state, heads=2, precision=p) for p in (precision, "fp64"))
    assert packed.shape == exact.shape == FusionShape(37, 2, (128, 64, 32), True, 2)
    for name, value in packed.tensors().items():
        assert value.is_contiguous()
        assert value.shape == getattr(exact, name).shape, name
    # Half a step of the type; INT8's step is a 127th of the row's largest weight.
    limit = {"fp32": 2**-24, "fp16": 2**-11, "bf16": 2**-8}
    for name in ("kv", "proj", "fc1", "fc2"):
        value, wanted = getattr(packed, name), getattr(exact, name)
        if precision == "w8a16":
            assert value.dtype == torch.int8
            assert int(value.abs().max()) == 127
        else:
            # FP16's smallest step is 2^-24.
            assert ((value.double() - wanted).abs() <= limit[precision] * wanted.abs() + 2**-25).all(), name


def matrix(packed: PackedDepth, name: str, level: int, stream: int) -> Tensor:
    """One layer's (out, in) weights as they are multiplied, INT8 times its scale, in float64."""
    d, column, factor = packed.shape.dims[level], packed.shape.column(level), {"proj": 1, "fc1": 2}[name]
    begin = factor * (2 * packed.shape.squares(level) + stream * d * d)
    rows = getattr(packed, name)[begin : begin + factor * d * d].reshape(factor * d, d).double()
    first = factor * column
    return rows * getattr(packed, f"{name}_scale")[stream, first : first + factor * d, None].double()


def test_int8_rows_leave_less_than_rounding_to_the_largest() -> None:
    """A row is off by at most half a step where it is not clipped, and by less than the plain scale would leave."""
    state = stage(CASES["nano"]).state_dict()
    packed, exact = (pack(state, heads=2, precision=p) for p in ("w8a16", "fp64"))
    for level, stream in [(0, 0), (1, 1), (2, 0)]:
        found, wanted = matrix(packed, "proj", level, stream), matrix(exact, "proj", level, stream)
        step = wanted.abs().amax(dim=1, keepdim=True) / 127
        plain = (wanted / step).round() * step - wanted
        assert ((found - wanted).square().sum(1) <= 1.001 * plain.square().sum(1)).all()
        assert (found - wanted).norm() < 0.99 * plain.norm()
        inside = wanted.abs() < 0.69 * wanted.abs().amax(dim=1, keepdim=True)
        assert ((found - wanted).abs()[inside] <= 0.52 * step.expand_as(wanted)[inside]).all()


def test_int8_rows_after_layer_norm_are_centred() -> None:
    """They may be shifted as a whole: LayerNorm's output adds up to zero, so the products are the same."""
    module = stage(CASES["nano"])
    module.block_l.mlp1.fc1.weight[5] += 3.0
    packed, exact = (pack(module.state_dict(), heads=2, precision=p) for p in ("w8a16", "fp64"))
    found, wanted = matrix(packed, "fc1", 0, 0), matrix(exact, "fc1", 0, 0)
    assert (found[5] - wanted[5]).mean().abs() > 1
    normed = torch.nn.functional.layer_norm(torch.randn(64, 128, dtype=torch.float64), (128,))
    error = (normed @ (found - wanted).T).norm(dim=0) / (normed @ wanted.T).norm(dim=0)
    assert error[5] < 0.01


def test_padding_is_zero() -> None:
    packed = pack(stage(CASES["nano"]).state_dict(), heads=2, precision="fp64")
    t, p = packed.shape.tokens, packed.shape.padded
    assert (t, p) == (74, 128)
    for value in (packed.mix, packed.up):
        assert value[..., t:, :].count_nonzero() == 0
        assert value[..., t:].count_nonzero() == 0
    assert packed.token_bias[:, t:].count_nonzero() == 0


def test_zero_rows_stay_zero_in_int8() -> None:
    module = stage(CASES["nano"])
    module.block_l.attn_img.proj.weight[3] = 0
    packed = pack(module.state_dict(), heads=2, precision="w8a16")
    assert packed.proj[3 * 128 : 4 * 128].count_nonzero() == 0
    assert all(v.isfinite().all() for v in packed.tensors().values())


def test_partials_give_mean_and_variance() -> None:
    shape = infer_shape(stage(CASES["nano"]).state_dict(), heads=2)
    x = reference.join_levels(pyramid(CASES["nano"], 3)) + 5
    sums = reference.partials(x, shape)
    for i, level in enumerate(reference.split_levels(x, shape)):
        mean, m2 = sums[:, :, i, :, 0], sums[:, :, i, :, 1]
        width = shape.head_width(i)
        total = m2.sum(-1) + width * (mean - mean.mean(-1, keepdim=True)).square().sum(-1)
        assert torch.allclose(mean.mean(-1), level.mean(-1), atol=1e-12)
        assert torch.allclose(total / shape.dims[i], level.var(-1, unbiased=False), atol=1e-12)


def test_what_cannot_be_packed_is_named() -> None:
    state = stage(CASES["nano"]).state_dict()
    with pytest.raises(UsageError, match="unknown precision 'int4'"):
        pack(state, heads=2, precision="int4")
    with pytest.raises(UsageError, match="no entries 'elsewhere.block_l"):
        pack(state, heads=2, prefix="elsewhere.")


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        (FusionShape(50, 8, (512, 256, 128, 64), True), "4 pyramid levels"),
        (FusionShape(50, 16, (512, 256, 128), True), "heads 8 wide"),
        (FusionShape(50, 6, (384, 192, 96), True), "not powers of two"),
        (FusionShape(65, 8, (512, 256, 128), True), "65 tokens a stream"),
        (FusionShape(50, 8, (512, 128), True), "do not halve"),
        (FusionShape(50, 8, (512, 256, 128), True), None),
        (FusionShape(37, 2, (128, 64, 32), False), None),
    ],
    ids=str,
)
def test_unsupported_sizes_have_a_reason(shape: FusionShape, reason: str | None) -> None:
    found = shape.unsupported()
    assert found is None if reason is None else reason in str(found)
