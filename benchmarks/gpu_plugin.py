"""The TensorRT plugin's launches on a GPU, without TensorRT: its C++ driven as TensorRT would, against float64.

The plugin is made as a user makes it, with this GPU's kernels, and compiled with the stand-in header and the probe of
its tests; the driver is the real one.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from gpu_common import ROOT, Row, relative
from torch import Tensor

from poster_edge.kernels.aot import build_folder
from poster_edge.kernels.pack import PackedDepth, pack
from poster_edge.kernels.plugin.embed import write_plugin
from poster_edge.kernels.plugin.weights import join_weights, shape_attribute
from poster_edge.models.checkpoint import load_model
from poster_edge.models.fused import fusion_shape
from poster_edge.models.poster import Poster
from poster_edge.runtime.bundle import WEIGHTS_FILE, load_bundle

TESTS = ROOT / "tests" / "kernels"
#: Largest relative L2 error of the first token after all depths of the packaged model.
BARS = {"fp16": 3e-3, "w8a16": 9e-3}
BATCHES = (1, 3)


@torch.no_grad()
def plugin_rows() -> Iterator[Row]:
    """A row for each precision and batch, launched one by one and from a CUDA graph."""
    if shutil.which("g++") is None:
        yield {"what": "TensorRT plugin", "ok": True, "note": "not checked: no g++"}
        return
    model, _ = load_model(load_bundle("poster-nano").folder / WEIGHTS_FILE)
    assert isinstance(model, Poster)
    major, minor = torch.cuda.get_device_capability()
    for precision in BARS:
        shape = fusion_shape(model.pyramid_fuse)
        stages = [stage.state_dict() for stage in model.float().pyramid_fuse.blocks]
        depths = [pack(state, heads=shape.heads, precision=precision, shape=shape) for state in stages]
        with tempfile.TemporaryDirectory() as scratch:
            kernels, source = Path(scratch) / "kernels", Path(scratch) / "plugin"
            build_folder(kernels, shape, [10 * major + minor], model="poster-nano", precision=precision)
            write_plugin(source, kernels)
            plugin = Plugin(compiled(source), depths, torch.device("cuda"))
            for batch in BATCHES:
                yield from compared(model, plugin, batch, precision)


def compiled(source: Path) -> ctypes.CDLL:
    """The plugin and its probe as one library."""
    files = [TESTS / "plugin_probe.cpp", *(source / f"{n}.cpp" for n in ("plugin", "chain", "driver", "table"))]
    flags = ["-std=c++17", "-O1", "-shared", "-fPIC", f"-I{TESTS / 'tensorrt_stand_in'}", f"-I{source}"]
    words = ["g++", *flags, *map(str, files), str(source / "images.S"), f"-Wa,-I{source}", "-ldl"]
    subprocess.run([*words, "-o", str(source / "probe.so")], check=True, capture_output=True)
    library = ctypes.CDLL(str(source / "probe.so"))
    library.probe_create.restype = ctypes.c_void_p
    library.probe_workspace.restype = ctypes.c_int64
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
        assert handle, "the plugin refuses its own kernels' shape"
        self._handle = ctypes.c_void_p(handle)

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
            raise RuntimeError("the plugin refuses; it says why on stderr")


def compared(model: Poster, plugin: Plugin, batch: int, precision: str) -> Iterator[Row]:
    """Both ways to launch, against float64 on the CPU."""
    x = torch.randn(batch, 3, 48, 48, generator=torch.Generator().manual_seed(batch), dtype=torch.float64)
    small = model.double().subsample(x)
    levels = model.pyramid_fuse.levels(model.image_tokens(small), model.landmark_tokens(small))
    given = [t.half().contiguous().cuda() for t in levels]
    for stage in model.pyramid_fuse.blocks:
        levels = stage(levels)
    expected = levels[0][:, 0]
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
    yield _row(f"TensorRT plugin batch {batch}, CUDA graph", precision, relative(out, expected))


def _row(what: str, precision: str, error: float) -> Row:
    return {"what": what, "precision": precision, "error": error, "ok": error <= BARS[precision], "note": ""}
