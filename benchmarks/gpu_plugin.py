"""The TensorRT plugin's launches on a GPU, without TensorRT: its C++ driven as TensorRT would, against float64.

The plugin is made as a user makes it, with this GPU's kernels, and compiled with the stand-in header and the probe of
its tests; the driver is the real one.
"""

from __future__ import annotations

import ctypes
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from gpu_common import ROOT, Row, attempt, relative
from torch import Tensor

from poster_edge.errors import PosterEdgeError
from poster_edge.export.tensorrt_api import TENSORRT, installed
from poster_edge.kernels.aot import build_folder
from poster_edge.kernels.launch import LARGEST_BATCH
from poster_edge.kernels.pack import PackedDepth, pack
from poster_edge.kernels.plugin.embed import write_plugin
from poster_edge.kernels.plugin.weights import join_weights, shape_attribute
from poster_edge.models.checkpoint import load_model
from poster_edge.models.fused import fusion_shape
from poster_edge.models.poster import Poster
from poster_edge.runtime.bundle import WEIGHTS_FILE, load_bundle

TESTS = ROOT / "tests" / "kernels"
#: Largest relative L2 error of the first token after all depths of poster-nano.
BARS = {"fp16": 3e-3, "w8a16": 9e-3}
#: Compared one by one with float64; and the largest that is served, a few samples again and again.
BATCHES, SAMPLES = (1, 3, 33), 3


@torch.no_grad()
def plugin_rows() -> Iterator[Row]:
    """Rows for each precision and batch, launched one by one and from a CUDA graph; then inside TensorRT."""
    if shutil.which("g++") is None:
        yield {"what": "TensorRT plugin", "ok": None, "note": "not checked: no g++"}
        return
    with tempfile.TemporaryDirectory() as scratch:
        for precision in BARS:
            folder = Path(scratch) / precision
            yield from attempt("TensorRT plugin", partial(driven_rows, folder, precision), precision=precision)
        source = Path(scratch) / "fp16" / "plugin"
        yield from attempt("TensorRT plugin in TensorRT", lambda: inside(source), precision="fp16")


def inside(source: Path) -> Iterator[Row]:
    """The plugin in TensorRT, or one row that says why not."""
    if not installed(TENSORRT):
        yield {"what": "TensorRT plugin in TensorRT", "ok": None, "note": "not checked: TensorRT is not installed"}
        return
    from gpu_plugin_trt import tensorrt_rows

    yield from tensorrt_rows(source)


@torch.no_grad()
def driven_rows(folder: Path, precision: str) -> Iterator[Row]:
    """The plugin driven as TensorRT would, with poster-nano's weights."""
    model, depths = packaged(precision)
    plugin = Plugin(compiled(make(folder, depths[0])), depths, torch.device("cuda"))
    for batch in BATCHES:
        yield from compared(model, plugin, batch, precision)
    yield from largest(model, plugin, precision)


def packaged(precision: str) -> tuple[Poster, list[PackedDepth]]:
    """poster-nano in float64, and its depths' packed weights."""
    model, _ = load_model(load_bundle("poster-nano").folder / WEIGHTS_FILE)
    assert isinstance(model, Poster)
    shape = fusion_shape(model.pyramid_fuse)
    stages = [stage.state_dict() for stage in model.pyramid_fuse.blocks]
    depths = [pack(state, heads=shape.heads, precision=precision, shape=shape) for state in stages]
    return model.eval().requires_grad_(False).double(), depths


def make(folder: Path, packed: PackedDepth) -> Path:
    """Compile the kernels for this GPU and write the plugin's source, as a user does."""
    major, minor = torch.cuda.get_device_capability()
    kernels, source = folder / "kernels", folder / "plugin"
    build_folder(kernels, packed.shape, [10 * major + minor], model="poster-nano", precision=packed.precision)
    write_plugin(source, kernels)
    return source


def run_compiler(words: list[str]) -> None:
    """Run a compiler; what it says is in the error."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PosterEdgeError(f"{words[0]} failed: {' '.join(done.stderr.split())[:300]}")


def compiled(source: Path) -> ctypes.CDLL:
    """The plugin and its probe as one library."""
    files = [TESTS / "plugin_probe.cpp", *(source / f"{n}.cpp" for n in ("plugin", "chain", "driver", "table"))]
    flags = ["-std=c++17", "-O1", "-shared", "-fPIC", f"-I{TESTS / 'tensorrt_stand_in'}", f"-I{source}"]
    words = ["g++", *flags, *map(str, files), str(source / "images.S"), f"-Wa,-I{source}", "-ldl"]
    run_compiler([*words, "-o", str(source / "probe.so")])
    library = ctypes.CDLL(str(source / "probe.so"))
    library.probe_create.restype = ctypes.c_void_p
    library.probe_workspace.restype = ctypes.c_int64
    library.probe_said.restype = ctypes.c_char_p
    library.probe_listen()
    return library


class Plugin:
    """A plugin with a model's weights on a device.

    Args:
        library: from :func:`compiled`.
        depths: the packed weights.
        device: where they and the levels are.
    """

    def __init__(self, library: ctypes.CDLL, depths: list[PackedDepth], device: torch.device) -> None:
        self._library, self._device, self.shape = library, device, depths[0].shape
        weights, offsets = join_weights(depths)
        self._weights = torch.from_numpy(weights.copy()).to(device)
        shape = shape_attribute(self.shape)
        numbers = [(ctypes.c_int32 * len(v))(*v) for v in (shape, offsets)]
        precision = depths[0].precision.encode()
        handle = library.probe_create(numbers[0], len(shape), precision, numbers[1], len(offsets))
        if not handle:
            raise PosterEdgeError(self.said())
        self._handle = ctypes.c_void_p(handle)

    def said(self) -> str:
        """What the plugin logged last."""
        return str(self._library.probe_said().decode()) or "the plugin said nothing"

    def buffers(self, batch: int) -> tuple[Tensor, Tensor]:
        """The output (B, D0) and the scratch memory, full of NaN."""
        space = self._library.probe_workspace(self._handle, ctypes.c_int64(batch))
        out = torch.full((batch, self.shape.dims[0]), torch.nan, dtype=torch.float16, device=self._device)
        return out, torch.full((space // 2,), torch.nan, device=self._device).half()

    def enqueue(self, levels: list[Tensor], out: Tensor, workspace: Tensor, stream: int) -> None:
        """Launch everything on a stream; waits for nothing."""
        batch, count = ctypes.c_int64(len(out)), self.shape.levels
        sizes = (ctypes.c_int64 * (1 + count))(self.shape.tokens, *self.shape.dims)
        addresses = [*(t.data_ptr() for t in levels), self._weights.data_ptr()]
        inputs: Any = (ctypes.c_void_p * len(addresses))(*addresses)
        words = ctypes.c_int64(self._weights.numel())
        last = (inputs, *(ctypes.c_void_p(v) for v in (out.data_ptr(), workspace.data_ptr(), stream)))
        if self._library.probe_configure(self._handle, batch, count, sizes, words) or self._library.probe_enqueue(
            self._handle, batch, count, sizes, words, *last
        ):
            raise PosterEdgeError(self.said())


def readout(model: Poster, batch: int) -> tuple[list[Tensor], Tensor]:
    """Levels (B, T, D_i) on the GPU, and the first token (B, D0) in float64 after all depths."""
    x = torch.randn(batch, 3, 48, 48, generator=torch.Generator().manual_seed(batch), dtype=torch.float64)
    small = model.subsample(x)
    levels = model.pyramid_fuse.levels(model.image_tokens(small), model.landmark_tokens(small))
    given = [t.half().contiguous().cuda() for t in levels]
    for stage in model.pyramid_fuse.blocks:
        levels = stage(levels)
    return given, levels[0][:, 0]


def largest(model: Poster, plugin: Plugin, precision: str) -> Iterator[Row]:
    """The largest batch: offsets and grids at their end."""
    given, expected = readout(model, SAMPLES)
    rows = torch.arange(LARGEST_BATCH) % SAMPLES
    out, workspace = plugin.buffers(LARGEST_BATCH)
    plugin.enqueue([t[rows.cuda()] for t in given], out, workspace, torch.cuda.current_stream().cuda_stream)
    torch.cuda.synchronize()
    yield _row(f"TensorRT plugin batch {LARGEST_BATCH}", precision, relative(out, expected[rows]))


def compared(model: Poster, plugin: Plugin, batch: int, precision: str) -> Iterator[Row]:
    """Both ways to launch, against float64 on the CPU."""
    given, expected = readout(model, batch)
    out, workspace = plugin.buffers(batch)
    plugin.enqueue(given, out, workspace, torch.cuda.current_stream().cuda_stream)
    torch.cuda.synchronize()
    yield _row(f"TensorRT plugin batch {batch}", precision, relative(out, expected))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        plugin.enqueue(given, out, workspace, torch.cuda.current_stream().cuda_stream)
    out.fill_(torch.nan)
    graph.replay()
    torch.cuda.synchronize()
    row = _row(f"TensorRT plugin batch {batch}, CUDA graph", precision, relative(out, expected))
    yield {**row, "p50_ms": median_ms(graph.replay)}


def _row(what: str, precision: str, error: float) -> Row:
    return {"what": what, "precision": precision, "error": error, "ok": error <= BARS[precision], "note": ""}


def median_ms(replay: Callable[[], object], *, runs: int = 50) -> float:
    """Median of a replay on the GPU, with everything in its caches."""
    times = []
    for _ in range(runs):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        replay()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end))
    return statistics.median(times)
