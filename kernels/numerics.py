"""Errors of the fused kernels against float64, beside PyTorch's own at the same precision.

Every kernel gets what the kernel before it wrote, so that a row shows one kernel's error alone; what
it is about to write is filled with NaN first.  INT8 weights are compared twice: a kernel with float64
arithmetic on the same INT8 weights, a whole depth with the weights before rounding.  What that rounding costs
by itself is the weights' affair (0.0005 for POSTER's rebuildable ones, 0.004 for some that were trained on), so a
depth may be off by that and by what FP16 may be.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from poster_edge.kernels import reference
from poster_edge.kernels.chain import Launcher, enter, run_depth
from poster_edge.kernels.pack import PackedDepth, pack
from poster_edge.kernels.shape import LEVEL_NAMES, FusionShape

#: Largest relative L2 error; of a depth with INT8 weights where rounding them costs more, see :func:`depth_rows`.
BARS = {"fp32": 1e-6, "fp16": 1e-3, "bf16": 8e-3, "w8a16": 3e-3}
#: A kernel's own bar for INT8 weights is that of its FP16 arithmetic: the weights are the same.
KERNEL_BARS = {**BARS, "w8a16": BARS["fp16"]}
#: And never more than this times PyTorch's own error.
FACTOR = 1.5
#: Below half a unit in the last place nothing can be told: both round the same exact value once.
_FLOOR = {"fp32": 6e-8, "fp16": 2.5e-4, "bf16": 2e-3, "w8a16": 2.5e-4}

Stage = Callable[[list[Tensor]], list[Tensor]]


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        case: whose weights and activations.
        kernel: "attend" … "mix", "partials", "depth" or "logits".
        precision: key of :data:`BARS`.
        level: "l", "m", "s" or "all".
        batch: B.
        error: relative L2 against float64.
        torch_error: PyTorch's own at this precision, NaN where it was not computed.
        bar: what the error may be.
        note: why there is no figure.
    """

    case: str
    kernel: str
    precision: str
    level: str
    batch: int
    error: float
    torch_error: float
    bar: float
    note: str = ""

    @property
    def ok(self) -> bool:
        """Finite, within the bar, and within a factor of PyTorch's own error."""
        if not self.error <= self.bar:
            return False
        return self.torch_error != self.torch_error or self.error <= FACTOR * max(
            self.torch_error, _FLOOR[self.precision]
        )


def relative(found: Tensor, expected: Tensor) -> float:
    """Relative L2 error; NaN or infinite where anything in it is."""
    return float((found.double().cpu() - expected.double().cpu()).norm() / expected.double().cpu().norm())


def widened(packed: PackedDepth) -> PackedDepth:
    """The same (rounded) weights in float64, for exact arithmetic on them."""
    return replace(packed, precision="fp64", **{k: v.double().cpu() for k, v in packed.tensors().items()})  # type: ignore[arg-type]


def depth_rows(
    state: Mapping[str, Tensor],
    levels: list[Tensor],
    launcher: Launcher,
    *,
    stage: Stage | None = None,
    case: str,
    heads: int,
    precision: str,
    device: torch.device | str = "cpu",
) -> list[Row]:
    """One depth: kernel by kernel, its LayerNorm sums, and as a whole, each level by level.

    Args:
        state: entries of one depth, as :func:`poster_edge.kernels.pack.pack` takes them.
        levels: (B, T, D_i) in float64.
        launcher: the back end.
        stage: PyTorch's own depth at this precision and on this device, on levels of that type;
            without it the reference at that precision stands in.
        case: name of weights and activations.
        heads: H.
        precision: key of :data:`BARS`.
        device: where the kernels run.
    """
    packed = pack(state, heads=heads, precision=precision).to(device)
    given = [t.to(device, packed.dtype) for t in levels]
    space = enter(given, packed, launcher, poison=True)
    # The depth writes its result and its sums over its input's.
    entered = {k: space.tensors[k].double().cpu() for k in ("x", "partials")}
    run_depth(space, packed, launcher)
    after = {k: v.double().cpu() for k, v in space.tensors.items()}
    after["x_in"], after["partials_in"] = entered["x"], entered["partials"]
    like = Row(case, "", precision, "", space.batch, 0.0, 0.0, KERNEL_BARS[precision])
    exact = pack(state, heads=heads, precision="fp64")
    rows = _kernel_rows(after, packed.to("cpu"), widened(packed) if precision == "w8a16" else exact, like)
    for sums, source in (("partials_in", "x_in"), ("y_partials", "y"), ("partials", "x")):
        error = relative(after[sums], reference.partials(after[source], packed.shape))
        rows.append(replace(like, kernel="partials", level="all", error=error, torch_error=NAN, bar=BARS["fp32"]))
    if stage is None or precision == "w8a16":
        # PyTorch has no such layer: its operations in FP16, on the same INT8 weights widened.
        own = reference.depth(reference.join_levels(given), packed)
    else:
        own = reference.join_levels(stage(given))
    entering = reference.join_levels(levels)
    expected = reference.depth(entering, exact)
    like = replace(like, kernel="depth", bar=BARS[precision])
    depth = _level_rows(packed.shape, (after["x"], expected, own), like)
    if precision == "w8a16":
        rounding = _level_rows(packed.shape, (reference.depth(entering, widened(packed)), expected, own), like)
        allowed = [max(r.bar, math.hypot(r.error, BARS["fp16"])) for r in rounding]
        depth = [replace(r, bar=bar) for r, bar in zip(depth, allowed, strict=True)]
    return rows + depth


def _kernel_rows(after: dict[str, Tensor], rounded: PackedDepth, exact: PackedDepth, like: Row) -> list[Row]:
    """Each kernel's output against its step in float64 and in its own precision, on what it was given."""
    own = {k: v.to(rounded.dtype) for k, v in after.items()}
    rows = []
    for name, (output, step) in _STEPS.items():
        tensors = after[output], step(after, exact), step(own, rounded)
        rows += _level_rows(rounded.shape, tensors, replace(like, kernel=name))
    return rows


NAN = float("nan")
#: Kernel -> what it writes, and its step on tensors by name ("x_in" is the depth's input, "x" its output).
_STEPS: dict[str, tuple[str, Callable[[dict[str, Tensor], PackedDepth], Tensor]]] = {
    "attend": ("attended", lambda t, p: reference.attend(t["x_in"], p)),
    "project": ("y", lambda t, p: reference.project(t["x_in"], t["attended"], p)),
    "expand": ("hidden", lambda t, p: reference.expand(t["y"], p)),
    "contract": ("z", lambda t, p: reference.contract(t["y"], t["hidden"], p)),
    "mix": ("x", lambda t, p: reference.mix(t["z"], p)),
}


def _level_rows(shape: FusionShape, tensors: tuple[Tensor, ...], like: Row) -> list[Row]:
    """A row for each level of (found, float64, PyTorch's own)."""
    wide = replace(shape, dims=tuple(d * tensors[0].shape[-1] // shape.width for d in shape.dims))
    rows = []
    for i, (found, expected, own) in enumerate(zip(*(reference.split_levels(t, wide) for t in tensors), strict=True)):
        rows.append(
            replace(like, level=LEVEL_NAMES[i], error=relative(found, expected), torch_error=relative(own, expected))
        )
    return rows
