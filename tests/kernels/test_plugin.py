"""The TensorRT plugin: its launches and its data are chain.py's.

The plugin's source, with a stand-in for TensorRT's header, becomes a library that a test drives on the CPU: the memory
is the host's, and a launch calls back into Python, which computes the kernel's reference on the addresses it was given.
"""

from __future__ import annotations

import ctypes
import runpy
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from poster_edge.errors import PosterEdgeError, UsageError
from poster_edge.kernels import chain
from poster_edge.kernels.aot_loader import pick_arch, read_manifest
from poster_edge.kernels.launch import ARGUMENTS, LARGEST_BATCH, Launch, plan
from poster_edge.kernels.pack import PackedDepth
from poster_edge.kernels.plugin.embed import table, write_plugin
from poster_edge.kernels.plugin.weights import join_weights, shape_attribute
from poster_edge.kernels.shape import FusionShape
from poster_edge.models.poster import Poster
from poster_edge.optional import available

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
STAND_IN = HERE / "tensorrt_stand_in"
Device: Any = runpy.run_path(str(HERE / "host_device.py"))["Device"]
ARCHS = (86, 87)
pytestmark = [
    pytest.mark.skipif(not available("triton"), reason="needs Triton"),
    pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++"),
]
Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def probe(run: Command, source: Path) -> ctypes.CDLL:
    """The plugin and what drives it, as one library."""
    library = source.parent / "probe.so"
    files = [HERE / "plugin_probe.cpp", *(source / f"{n}.cpp" for n in ("plugin", "chain", "driver", "table"))]
    flags = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-I", STAND_IN, "-I", source]
    run("g++", *flags, *files, source / "images.S", f"-Wa,-I{source}", "-ldl", "-o", library)
    loaded = ctypes.CDLL(str(library))
    for name in ("probe_create", "probe_restore", "probe_attach"):
        getattr(loaded, name).restype = ctypes.c_void_p
    loaded.probe_said.restype = ctypes.c_char_p
    loaded.probe_workspace.restype = ctypes.c_int64
    loaded.probe_supports.restype = ctypes.c_bool
    loaded.probe_output_is_batch_by_width.restype = ctypes.c_bool
    return loaded


@pytest.fixture
def device(probe: ctypes.CDLL, cubins: Path, depths: list[PackedDepth]) -> Iterator[Any]:
    made = Device(read_manifest(cubins)[2], cubins, depths[0])
    probe.probe_device(87, made.callback)
    yield made
    if made.failure is not None:
        raise made.failure


def ints(values: list[int]) -> Any:
    return (ctypes.c_int32 * len(values))(*values)


def create(probe: ctypes.CDLL, shape: list[int], offsets: list[int], precision: bytes = b"fp16") -> int | None:
    return probe.probe_create(ints(shape), len(shape), precision, ints(offsets), len(offsets))


def sizes(shape: FusionShape) -> Any:
    return (ctypes.c_int64 * (1 + shape.levels))(shape.tokens, *shape.dims)


@dataclass(frozen=True)
class Made:
    """A plugin with poster-nano's weights."""

    handle: ctypes.c_void_p
    weights: np.ndarray
    shape: FusionShape


@pytest.fixture
def made(probe: ctypes.CDLL, device: Any, depths: list[PackedDepth]) -> Iterator[Made]:
    weights, offsets = join_weights(depths)
    first = create(probe, shape_attribute(depths[0].shape), offsets)
    assert first, probe.probe_said()
    # As after a plan was opened: what was serialised makes the plugin that runs, and a context clones that.
    restored = ctypes.c_void_p(probe.probe_restore(ctypes.c_void_p(first)))
    attached = ctypes.c_void_p(probe.probe_attach(restored))
    probe.probe_delete(ctypes.c_void_p(first))
    probe.probe_delete(restored)
    yield Made(attached, weights, depths[0].shape)
    probe.probe_delete(attached)


def enqueue(probe: ctypes.CDLL, device: Any, made: Made, levels: list[Tensor]) -> Tensor:
    """Run the plugin on levels (B, T, D_i) in FP16; memory that it may not rely on holds NaN."""
    shape, batch = made.shape, len(levels[0])
    device.batch = batch
    out = torch.full((batch, shape.dims[0]), torch.nan, dtype=torch.float16)
    workspace = torch.full((probe.probe_workspace(made.handle, ctypes.c_int64(batch)) // 2,), torch.nan).half()
    inputs = (ctypes.c_void_p * 4)(*(x.data_ptr() for x in levels), made.weights.ctypes.data)
    words = ctypes.c_int64(made.weights.size)
    code = probe.probe_configure(made.handle, ctypes.c_int64(batch), 3, sizes(shape), words)
    assert code == 0, probe.probe_said()
    code = probe.probe_enqueue(
        made.handle,
        ctypes.c_int64(batch),
        3,
        sizes(shape),
        words,
        inputs,
        ctypes.c_void_p(out.data_ptr()),
        ctypes.c_void_p(workspace.data_ptr()),
        ctypes.c_void_p(4711),
    )
    if device.failure is not None:
        raise device.failure
    assert code == 0, probe.probe_said()
    return out


def pyramid(nano: Poster, batch: int) -> list[Tensor]:
    x = torch.randn(batch, 3, 48, 48, generator=torch.Generator().manual_seed(batch))
    small = nano.subsample(x)
    return nano.pyramid_fuse.levels(nano.image_tokens(small), nano.landmark_tokens(small))


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_launches_are_those_of_the_chain_and_give_its_result(
    probe: ctypes.CDLL, device: Any, made: Made, nano: Poster, depths: list[PackedDepth], batch: int
) -> None:
    levels = [t.half().contiguous() for t in pyramid(nano, batch)]
    found = enqueue(probe, device, made, levels)
    planned: list[Launch] = []
    chain.run(levels, depths, lambda step, _: planned.append(step))
    # chain.run plans for the CPU here; on the device it would plan for sm_87.
    planned = [
        plan(s.kernel, made.shape, batch, "fp16", last=bool(s.constants.get("LAST")), capability=(8, 7))
        for s in planned
    ]
    assert len(planned) == 1 + 5 * len(depths)
    assert [(e.kernel, e.constants, e.warps, g, n, s, q) for e, g, n, s, q in device.launched] == [
        (s.kernel, s.constants, s.warps, (*s.grid, 1), 32 * s.warps, e.shared, 4711)
        for s, (e, *_) in zip(planned, device.launched, strict=True)
    ]
    assert {e.arch for e, *_ in device.launched} == {87}
    exact = nano.double().pyramid_fuse
    expected = [t.double() for t in levels]
    for stage in exact.blocks:
        expected = stage(expected)
    nano.float()
    first = expected[0][:, 0]
    assert (found.double() - first).norm() / first.norm() < 1e-3


def test_kernels_are_loaded_once(probe: ctypes.CDLL, device: Any, made: Made, nano: Poster) -> None:
    enqueue(probe, device, made, [t.half().contiguous() for t in pyramid(nano, 1)])
    before = probe.probe_loads()
    enqueue(probe, device, made, [t.half().contiguous() for t in pyramid(nano, 1)])
    assert probe.probe_loads() == before == sum(e.arch == 87 for e in device.entries)


def test_a_new_context_loads_the_kernels_again(probe: ctypes.CDLL, device: Any, made: Made, nano: Poster) -> None:
    """What was loaded into a context goes with it, and a new one may lie at its address."""
    levels = [t.half().contiguous() for t in pyramid(nano, 1)]
    enqueue(probe, device, made, levels)
    before = probe.probe_loads()
    probe.probe_context(0)
    enqueue(probe, device, made, levels)
    assert probe.probe_loads() == before + sum(e.arch == 87 for e in device.entries)


def test_a_driver_that_refuses_the_kernels_is_quoted(probe: ctypes.CDLL, device: Any, made: Made, nano: Poster) -> None:
    levels = [t.half().contiguous() for t in pyramid(nano, 1)]
    probe.probe_context(200)
    with pytest.raises(AssertionError, match=r"does not take enter_kernel for sm_87: CUDA_ERROR_INVALID_IMAGE \(200\)"):
        enqueue(probe, device, made, levels)
    probe.probe_context(0)
    enqueue(probe, device, made, levels)


def test_addresses_that_do_not_fit(probe: ctypes.CDLL, device: Any, made: Made) -> None:
    """A kernel reads 16 bytes at once: beside that an access would be the end of the CUDA context."""
    levels = [torch.zeros(made.shape.tokens * d + 4, dtype=torch.float16)[4:].view(1, -1, d) for d in made.shape.dims]
    assert levels[0].data_ptr() % 16 == 8
    with pytest.raises(AssertionError, match="begins at an address that is no multiple of 16"):
        enqueue(probe, device, made, levels)
    assert not device.launched


def test_an_empty_batch_launches_nothing(probe: ctypes.CDLL, device: Any, made: Made) -> None:
    levels = [torch.zeros(0, made.shape.tokens, d, dtype=torch.float16) for d in made.shape.dims]
    assert enqueue(probe, device, made, levels).shape == (0, made.shape.dims[0])
    assert not device.launched


def test_levels_of_several_batches_are_refused(probe: ctypes.CDLL, made: Made) -> None:
    words = ctypes.c_int64(made.weights.size)
    assert probe.probe_uneven(made.handle, ctypes.c_int64(2), 3, sizes(made.shape), words) != 0
    assert b"the levels are batches of 2 and of 3" in probe.probe_said()


@pytest.mark.parametrize("batch", [1, 2, 7, 64])
def test_workspace_holds_what_the_chain_allocates(probe: ctypes.CDLL, made: Made, batch: int) -> None:
    space = chain.Workspace(made.shape, batch, torch.float16, torch.device("cpu")).tensors
    needed = sum(-(-t.nbytes // 256) * 256 for n, t in space.items() if n != "out")
    assert probe.probe_workspace(made.handle, ctypes.c_int64(batch)) == needed


def test_types_formats_and_shapes(probe: ctypes.CDLL, made: Made) -> None:
    half, float32, int32, linear = 1, 0, 3, 0
    assert [probe.probe_supports(made.handle, i, half, linear) for i in range(5)] == [True, True, True, False, True]
    assert [probe.probe_supports(made.handle, i, int32, linear) for i in range(5)] == [False, False, False, True, False]
    assert not probe.probe_supports(made.handle, 0, float32, linear)
    assert not probe.probe_supports(made.handle, 0, half, 1)
    assert probe.probe_output_is_batch_by_width(made.handle)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tokens": 72}, b"level 0 is not (B, 74, 128)"),
        ({"levels": 2}, b"3 inputs; 3 levels and the weights are expected"),
        ({"batch": LARGEST_BATCH + 1}, b"a batch of 8193 is too large (at most 8192)"),
        ({"words": 100}, b"the weights are cut short"),
    ],
    ids=str,
)
def test_tensors_that_do_not_fit(probe: ctypes.CDLL, made: Made, change: dict[str, int], words: bytes) -> None:
    given = SimpleNamespace(**{"tokens": 74, "levels": 3, "batch": 2, "words": made.weights.size, **change})
    numbers = (ctypes.c_int64 * 4)(given.tokens, *made.shape.dims)
    batch, count = ctypes.c_int64(given.batch), ctypes.c_int64(given.words)
    assert probe.probe_configure(made.handle, batch, given.levels, numbers, count) != 0
    assert words in probe.probe_said()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"shape": [37, 4, 2, 1, 128, 64, 32]}, b"widths 37 2 2 1 128 64 32; the node has 37 4 2 1 128 64 32"),
        ({"shape": []}, b"the node has nothing"),
        ({"precision": b"w8a16"}, b"its kernels are for fp16; the node has 'w8a16'"),
        ({"offsets": list(range(14))}, b"'offsets' must hold 15 numbers for each depth"),
        ({"offsets": [-1] * 15}, b"'offsets' must hold 15 numbers"),
    ],
    ids=str,
)
def test_nodes_that_do_not_fit(probe: ctypes.CDLL, device: Any, change: dict[str, Any], words: bytes) -> None:
    given = {"shape": shape_attribute(device.packed.shape), "offsets": list(range(15)), **change}
    assert create(probe, **given) is None
    assert words in probe.probe_said()


def test_where_the_kernels_run(probe: ctypes.CDLL) -> None:
    for capability in (75, 80, 86, 87, 89, 90, 100, 110, 120):
        try:
            expected = pick_arch(set(ARCHS), capability)
        except PosterEdgeError:
            expected = 0
        assert probe.probe_pick_arch(capability) == expected, capability


def test_table_covers_every_batch(cubins: Path) -> None:
    shape, precision, entries = read_manifest(cubins)
    rows = table(shape, precision, entries)
    for arch in ARCHS:
        for batch in (1, 2, 3, 8, 100, LARGEST_BATCH):
            for kernel, last in [*((k, False) for k in ARGUMENTS), ("mix", True)]:
                step = plan(kernel, shape, batch, precision, last=last, capability=divmod(arch, 10))
                (row,) = [
                    r
                    for r in rows
                    if (r.entry.arch, r.entry.kernel, r.last) == (arch, kernel, last)
                    and r.batches[0] <= batch <= r.batches[1]
                ]
                assert row.entry.constants == step.constants
                assert (row.grid_x, -(-batch * row.rows // row.tile) if row.tile else batch) == step.grid


def test_source_is_not_overwritten(source: Path, cubins: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="pass --force to replace it"):
        write_plugin(source, cubins)
    with pytest.raises(UsageError, match="it is no plugin of ours"):
        write_plugin(tmp_path, cubins)
