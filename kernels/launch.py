"""How each fused kernel is launched: arguments, compile-time constants, grid, warps and stages.

Just-in-time launches and ahead-of-time builds read the same plan.  No torch and no triton here.
"""

from __future__ import annotations

from dataclasses import dataclass

from poster_edge.kernels.shape import LN_EPS, FusionShape

#: Kernel -> names of its tensors in order, each argument being ``p_NAME``; see ``chain.Workspace``
#: and ``pack.PackedDepth``.  "batch" (int32) comes last where the kernel takes it.
ARGUMENTS: dict[str, tuple[str, ...]] = {
    "enter": ("level0", "level1", "level2", "x", "partials", "batch"),
    "attend": ("x", "partials", "kv", "kv_scale", "query", "attended"),
    "project": ("x", "attended", "proj", "proj_scale", "proj_bias", "y", "y_partials", "batch"),
    "expand": ("y", "y_partials", "fc1", "fc1_scale", "fc1_bias", "hidden", "batch"),
    "contract": ("y", "hidden", "fc2", "fc2_scale", "fc2_bias", "z", "batch"),
    "mix": ("z", "mix", "up", "token_bias", "out", "partials"),
}
#: What each kernel writes.
OUTPUTS: dict[str, tuple[str, ...]] = {
    "enter": ("x", "partials"),
    "attend": ("attended",),
    "project": ("y", "y_partials"),
    "expand": ("hidden",),
    "contract": ("z",),
    "mix": ("out", "partials"),
}
#: The kernels of one depth, in order.
DEPTH = ("attend", "project", "expand", "contract", "mix")

#: Largest batch of the models that there are; see :func:`largest_batch`.
LARGEST_BATCH = 8192

_ACTIVATION = {"fp32": "*fp32", "fp16": "*fp16", "bf16": "*bf16", "w8a16": "*fp16"}
_WEIGHTS = ("kv", "proj", "fc1", "fc2")
_FLOAT32 = ("partials", "y_partials", "query", "token_bias")
#: Shared memory of one block from which the wider tiles fit (sm_80, 90 and 100 have more than 160 KB).
_LARGE_SHARED = {(8, 0), (8, 7), (9, 0), (10, 0), (10, 3), (11, 0)}


@dataclass(frozen=True)
class Launch:
    """One kernel launch.

    Attributes:
        kernel: key of :data:`ARGUMENTS`.
        grid: programs in x and y.
        constants: compile-time constants by name.
        warps: warps of a program.
        stages: depth of the software pipeline.
    """

    kernel: str
    grid: tuple[int, int]
    constants: dict[str, int | float | bool]
    warps: int
    stages: int


def largest_batch(shape: FusionShape) -> int:
    """Samples that one call may have: offsets inside the kernels are 32 bits wide."""
    return min(LARGEST_BATCH, (2**31 - 1) // (shape.tokens * shape.ratio * shape.width))


def signature(kernel: str, precision: str) -> dict[str, str]:
    """Triton's types of a kernel's run-time arguments, in order: {"p_x": "*fp16", …, "batch": "i32"}."""
    types = {}
    for name in ARGUMENTS[kernel]:
        if name == "batch":
            types[name] = "i32"
        elif name in _FLOAT32 or name.endswith(("_scale", "_bias")):
            types[f"p_{name}"] = "*fp32"
        elif name in _WEIGHTS and precision == "w8a16":
            types[f"p_{name}"] = "*i8"
        else:
            types[f"p_{name}"] = _ACTIVATION[precision]
    return types


def plan(
    kernel: str,
    shape: FusionShape,
    batch: int,
    precision: str,
    *,
    last: bool = False,
    capability: tuple[int, int] | None = None,
) -> Launch:
    """Plan one launch.

    Args:
        kernel: key of :data:`ARGUMENTS`.
        shape: the sizes.
        batch: B.
        precision: "fp32", "fp16", "bf16" or "w8a16".
        last: the last depth, of which only the widest level's first token is read.
        capability: compute capability of the GPU, where it matters.
    """
    heads, rows = shape.heads, batch * shape.per_stream
    wide = precision == "fp32"
    # One sample fills 64 rows; from two on a tile of 128 reads each weight half as often.
    tile = 64 if rows <= 64 else 128
    tiles = -(-rows // tile)
    # sm_87 wants shorter steps for INT8 weights; float32 operands are twice as large.
    block_k = 32 if wide or (precision == "w8a16" and capability == (8, 7)) else 64
    stages = 2 if wide or (tile == 128 and capability is not None and capability not in _LARGE_SHARED) else 3
    common: dict[str, int | float | bool] = {
        "N": shape.per_stream,
        "H": heads,
        "D0": shape.dims[0],
        "L": shape.levels,
    }
    streams = shape.levels * 2 * heads
    per_kernel: dict[str, tuple[tuple[int, int], dict[str, int | float | bool]]] = {
        "enter": ((shape.levels * heads, -(-batch * shape.tokens // 64)), {"BM": 64}),
        "attend": (
            (streams, batch),
            {"EPS": LN_EPS, "BN": max(16, 1 << (shape.per_stream - 1).bit_length()), "BLOCK_K": block_k},
        ),
        "project": ((streams, tiles), {"BM": tile, "BLOCK_K": block_k}),
        "expand": (
            (streams * shape.ratio, tiles),
            {"R": shape.ratio, "EPS": LN_EPS, "BM": tile, "BLOCK_K": block_k},
        ),
        "contract": ((streams, tiles), {"R": shape.ratio, "BM": tile, "BLOCK_K": block_k}),
        "mix": ((heads, batch), {"P": shape.padded, "MIX": shape.mix, "LAST": last, "BLOCK_K": 32 if wide else 64}),
    }
    grid, constants = per_kernel[kernel]
    warps = 8 if kernel == "mix" or (tile == 128 and kernel in ("project", "expand", "contract")) else 4
    return Launch(kernel, grid, {**common, **constants}, warps, 1 if kernel == "mix" and wide else stages)
