"""CUDA k1, executed on the host from its own source: numerics, waits and barriers, addresses, errors."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from torch import Tensor

from poster_edge.errors import PosterEdgeError, UnavailableError, UsageError
from poster_edge.kernels import reference
from poster_edge.kernels.cuda.driver import Driver
from poster_edge.kernels.cuda.emulate import CSRC, attend_emulated, build_emulator
from poster_edge.kernels.cuda.launch import K1
from poster_edge.kernels.cuda.problem import K1Weights, Problem
from poster_edge.kernels.pack import PackedDepth, pack
from poster_edge.models.fusion import FusionStage
from poster_edge.models.poster_config import POSTER_CONFIGS

#: Relative L2 error against float64; PyTorch in FP16 rounds more often and is never better.
TOLERANCE = 1e-3
PRECISIONS = ("fp64", "fp16", "w8a16")


@pytest.fixture(scope="module")
def library(kernel_cache: Path) -> Path:
    if shutil.which("g++") is None and shutil.which("c++") is None:
        pytest.skip("needs a C++ compiler")
    return build_emulator(cache=kernel_cache)


@pytest.fixture(scope="module", params=["poster-nano", "poster"])
def packed(request: pytest.FixtureRequest) -> dict[str, PackedDepth]:
    return pack_depth(request.param)


@pytest.fixture(scope="module")
def nano() -> dict[str, PackedDepth]:
    return pack_depth("poster-nano")


def pack_depth(name: str) -> dict[str, PackedDepth]:
    """One depth with weights of every kind, LayerNorm's scale and shift and all biases included."""
    generator = torch.Generator().manual_seed(0)
    config = next(c for c in POSTER_CONFIGS if c.variant == name)
    stage = FusionStage(config, 0.0)
    for p in stage.parameters():
        mean, std = (0.0, 0.05) if p.ndim > 1 else (0.5, 0.5)
        p.data.normal_(mean, std, generator=generator)
    return {k: pack(stage.state_dict(), heads=config.heads, precision=k) for k in PRECISIONS}


def rows(packed: PackedDepth, batch: int, *, offset: float = 0.3) -> Tensor:
    generator = torch.Generator().manual_seed(batch)
    shape = (batch, packed.shape.tokens, packed.shape.width)
    return (torch.randn(shape, generator=generator) * 1.5 + offset).half()


def error(found: Tensor, exact: Tensor) -> float:
    return float((found.double() - exact).norm() / exact.norm())


@pytest.mark.parametrize("measured", [True, False], ids=["own-statistics", "partials"])
@pytest.mark.parametrize("batch", [1, 2])
def test_equals_float64(library: Path, packed: dict[str, PackedDepth], batch: int, measured: bool) -> None:
    x = rows(packed["fp16"], batch)
    partials = None if measured else reference.partials(x.float(), packed["fp16"].shape).contiguous()
    found = attend_emulated(x, K1Weights.from_packed(packed["fp16"]), partials=partials, library=library)
    exact = reference.attend(x.double(), packed["fp64"])
    assert not found.isnan().any()
    assert error(found, exact) < TOLERANCE
    assert error(found, exact) < error(reference.attend(x, packed["fp16"]), exact)


@pytest.mark.parametrize("batch", [3, 8])
def test_other_batches(library: Path, nano: dict[str, PackedDepth], batch: int) -> None:
    x = rows(nano["fp16"], batch)
    found = attend_emulated(x, K1Weights.from_packed(nano["fp16"]), library=library)
    assert error(found, reference.attend(x.double(), nano["fp64"])) < TOLERANCE


def test_rows_far_from_zero(library: Path, nano: dict[str, PackedDepth]) -> None:
    """The mean is subtracted after the product; at 20 standard deviations that still costs nothing."""
    x = rows(nano["fp16"], 1, offset=30.0)
    found = attend_emulated(x, K1Weights.from_packed(nano["fp16"]), library=library)
    assert error(found, reference.attend(x.double(), nano["fp64"])) < TOLERANCE


def test_does_not_depend_on_the_order_of_warps(library: Path, nano: dict[str, PackedDepth]) -> None:
    x, weights = rows(nano["fp16"], 1), K1Weights.from_packed(nano["fp16"])
    results = [attend_emulated(x, weights, seed=seed, library=library) for seed in range(4)]
    assert all(torch.equal(results[0], r) for r in results[1:])


def test_reads_and_writes_nothing_outside(library: Path, nano: dict[str, PackedDepth]) -> None:
    """Every buffer lies between NaN: a value read from outside would spread, one written there would show."""
    packed = nano["fp16"]
    x, weights = rows(packed, 2), K1Weights.from_packed(packed)
    expected = attend_emulated(x, weights, library=library)

    def fenced(t: Tensor) -> tuple[Tensor, Tensor]:
        room = torch.full((t.numel() + 2048,), torch.nan, dtype=t.dtype)
        room[1024:-1024] = t.flatten()
        return room, room[1024:-1024].view(t.shape)

    kept = [fenced(t) for t in (x, weights.kv, weights.sums, weights.query, torch.full_like(x, torch.nan))]
    inside = [view for _, view in kept]
    moved = K1Weights(weights.shape, *inside[1:4])
    problem = moved.problem(inside[0], None, inside[4])
    message = ctypes.create_string_buffer(256)
    assert ctypes.CDLL(str(library)).poster_edge_k1_emulated(ctypes.byref(problem), 2, 0, message, 256) == 0
    assert torch.equal(inside[4], expected)
    room = kept[4][0]
    assert room[:1024].isnan().all()
    assert room[-1024:].isnan().all()


@pytest.mark.parametrize(
    ("fault", "line", "instead", "message"),
    [
        ("a missing wait", "wait_copies<kStages - 2>();", "", None),
        (
            "an early exit",
            "  uint32_t q[HD / 16][4];\n",
            "  if (thread_index() == 5) return;\n  uint32_t q[HD / 16][4];\n",
            "lanes of a warp|for ever",
        ),
        (
            "a wrong address",
            "load_matrices(a, tile_rows(stage + warp * 16 * kPitch + step, kPitch));",
            "load_matrices(a, tile_rows(stage + warp * 16 * kPitch + step + 4, kPitch));",
            "misaligned",
        ),
    ],
    ids=["wait", "exit", "address"],
)
def test_the_emulator_finds(
    kernel_cache: Path,
    tmp_path: Path,
    nano: dict[str, PackedDepth],
    fault: str,
    line: str,
    instead: str,
    message: str | None,
) -> None:
    """The check itself is checked: a kernel with a planted fault does not pass."""
    text = (CSRC / "k1.cu").read_text()
    assert text.count(line) == 1, fault
    broken = tmp_path / "k1.cu"
    broken.write_text(text.replace(line, instead))
    x, weights = rows(nano["fp16"], 1), K1Weights.from_packed(nano["fp16"])
    library = build_emulator(source=broken, cache=kernel_cache)
    if message is None:
        assert attend_emulated(x, weights, library=library).isnan().any(), fault
        return
    with pytest.raises(PosterEdgeError, match=message):
        attend_emulated(x, weights, library=library)


def test_the_struct_is_the_kernels(library: Path) -> None:
    assert ctypes.CDLL(str(library)).poster_edge_k1_problem_bytes() == ctypes.sizeof(Problem)


def test_what_does_not_fit_is_one_line(nano: dict[str, PackedDepth]) -> None:
    with pytest.raises(UsageError, match="packed as w8a16; it takes fp16"):
        K1Weights.from_packed(nano["w8a16"])
    weights = K1Weights.from_packed(nano["fp16"])
    x = rows(nano["fp16"], 1)
    with pytest.raises(UsageError, match=r"x is \(1, 74, 224\) torch.float32"):
        weights.problem(x.float(), None, x)
    with pytest.raises(UsageError, match="not contiguous"):
        weights.problem(x, None, torch.empty(1, 224, 74, dtype=torch.half).mT)


def test_without_a_gpu(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="no NVIDIA driver"):
        Driver(library=tmp_path / "libcuda.so.1")
    if not torch.cuda.is_available():
        with pytest.raises(UnavailableError, match=r"driver|GPU|CUDA"):
            K1()


TWO_GPUS = """
int context_of = -1;
int cuInit(unsigned f) { return 0; }
int cuDeviceGetCount(int *n) { return *n = 2, 0; }
int cuDeviceGet(int *d, int i) { return *d = i, 0; }
int cuDeviceGetAttribute(int *v, int which, int d) { return *v = which == 75 ? 8 + d : 0, 0; }
int cuCtxGetCurrent(void **c) { return *c = context_of < 0 ? 0 : &context_of, 0; }
int cuCtxGetDevice(int *d) { return *d = context_of, 0; }
int cuCtxSetCurrent(void *c) { return 0; }
int cuDevicePrimaryCtxRetain(void **c, int d) { return *c = &context_of, 0; }
int cuModuleLoadData(void **m, char *i) { return 200; }
int cuModuleGetFunction(void **f, void *m, char *n) { return 500; }
int cuFuncSetAttribute(void *f, int a, int v) { return 1; }
int cuLaunchKernel(void) { return 1; }
int cuGetErrorString(int code, char **text) { return *text = "no image for this device", 0; }
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_the_current_context_says_which_gpu(tmp_path: Path) -> None:
    library = tmp_path / "libcuda.so.1"
    words = ["cc", "-w", "-shared", "-fPIC", "-x", "c", "-", "-o", str(library)]
    subprocess.run(words, input=TWO_GPUS, text=True, check=True)
    assert Driver(library=library).capability() == 80
    assert Driver(ordinal=1, library=library).capability() == 90
    ctypes.c_int.in_dll(ctypes.CDLL(str(library)), "context_of").value = 1
    driver = Driver(library=library)
    assert driver.capability() == 90
    with pytest.raises(PosterEdgeError, match=r"cuModuleLoadData failed with 200 \(no image for this device\)"):
        driver.load(b"\x7fELF", "k")


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CXX", str(tmp_path / "none"))
    with pytest.raises(UnavailableError, match=r"install g\+\+ or set CXX"):
        build_emulator(cache=tmp_path)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu(packed: dict[str, PackedDepth]) -> None:
    x = rows(packed["fp16"], 3).cuda()
    found = K1()(x, K1Weights.from_packed(packed["fp16"]).to("cuda")).cpu()
    assert error(found, reference.attend(x.cpu().double(), packed["fp64"])) < TOLERANCE
