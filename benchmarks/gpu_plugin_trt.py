"""The TensorRT plugin inside TensorRT, where that is installed: parsed, built, opened again, run at several batches.

The graph is the plugin's node and nothing else.  Where there are no headers of TensorRT (its wheels have none), the
plugin is compiled with the stand-in of the tests, whose binary interface is the same.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import torch
from gpu_common import Row, relative
from gpu_plugin import BARS, TESTS, median_ms, packaged, readout, run_compiler
from gpu_tensorrt import compare, with_plugin
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from poster_edge.errors import PosterEdgeError
from poster_edge.export.cross_fusion_op import DOMAIN, OP
from poster_edge.export.engine_plugin import open_plugin
from poster_edge.export.tensorrt_api import TENSORRT, TensorRt, load
from poster_edge.kernels.pack import PackedDepth
from poster_edge.kernels.plugin.names import NAMESPACE, VERSION
from poster_edge.kernels.plugin.weights import join_weights, shape_attribute

LARGEST, BATCHES = 16, (1, 3, 16)
_HEADERS = ("/usr/include/x86_64-linux-gnu", "/usr/include/aarch64-linux-gnu", "/usr/local/tensorrt/include")


def tensorrt_rows(source: Path) -> Iterator[Row]:
    """Two rows for each batch, run once and from a CUDA graph with its time; then poster-edge's own runner with it."""
    what = "TensorRT plugin in TensorRT"
    tensorrt = load(TENSORRT)
    library, header = compiled(source)
    tensorrt.load_plugin(open_plugin(library))
    model, depths = packaged("fp16")
    engine = Engine(tensorrt, plan(tensorrt, node_graph(depths), depths[0]))
    for batch in BATCHES:
        given, expected = readout(model, batch)
        out = engine.run(given)
        error = relative(out, expected)
        row = {"what": f"{what} batch {batch}", "precision": "fp16", "error": error}
        yield {**row, "ok": error <= BARS["fp16"], "note": f"{tensorrt.title}, {header}"}
        graph = engine.capture()
        out.fill_(torch.nan)
        graph.replay()
        # Beside the plugin's own time: what TensorRT adds, such as a copy of the weights.
        row |= {"what": f"{what} batch {batch}, CUDA graph", "error": relative(out, expected)}
        yield {**row, "ok": row["error"] <= BARS["fp16"], "note": "", "p50_ms": median_ms(graph.replay)}
    yield from compare(with_plugin(source.parent / "bundle"), TENSORRT, "fp16", open_plugin(library))


def compiled(source: Path) -> tuple[Path, str]:
    """The plugin as a library, and whose header it was compiled with."""
    folders = [os.environ.get("TENSORRT_ROOT", "") + "/include", *_HEADERS]
    real = next((f for f in folders if (Path(f) / "NvInferRuntime.h").is_file()), None)
    cuda = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "include"
    include = [f"-I{real}", f"-I{cuda}"] if real else [f"-I{TESTS / 'tensorrt_stand_in'}"]
    library = source / "libposter_edge_plugin.so"
    files = [str(source / f) for f in ("plugin.cpp", "chain.cpp", "driver.cpp", "table.cpp", "images.S")]
    flags = ["-std=c++17", "-O2", "-shared", "-fPIC", "-fvisibility=hidden", *include, f"-Wa,-I{source}", "-ldl"]
    run_compiler(["g++", *files, *flags, "-o", str(library)])
    return library, "its own header" if real else "the tests' stand-in header"


def node_graph(depths: list[PackedDepth]) -> onnx.ModelProto:
    """Levels (N, T, D_i) in, the widest level's first token (N, D0) out, in FP16."""
    shape = depths[0].shape
    weights, offsets = join_weights(depths)
    levels = [f"level_{i}" for i in range(shape.levels)]
    node = helper.make_node(
        OP,
        [*levels, "weights"],
        ["first"],
        name="cross_fusion",
        domain=DOMAIN,
        shape=shape_attribute(shape),
        precision=depths[0].precision,
        offsets=offsets,
        plugin_namespace=NAMESPACE,
        plugin_version=VERSION,
    )
    half = TensorProto.FLOAT16
    graph = helper.make_graph(
        [node],
        "cross_fusion",
        [
            helper.make_tensor_value_info(n, half, ["N", shape.tokens, d])
            for n, d in zip(levels, shape.dims, strict=True)
        ],
        [helper.make_tensor_value_info("first", half, ["N", shape.dims[0]])],
        [numpy_helper.from_array(weights, "weights")],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def plan(tensorrt: TensorRt, model: onnx.ModelProto, packed: PackedDepth, *, capability: str | None = None) -> Any:
    """Parse and build for batches of 1 to :data:`LARGEST`.

    Raises:
        PosterEdgeError: TensorRT does not; in its own words.
    """
    trt, builder = tensorrt.module, tensorrt.builder()
    network = builder.create_network(tensorrt.network_flags)
    parser = trt.OnnxParser(network, tensorrt.logger)
    if not parser.parse(model.SerializeToString()):
        raise PosterEdgeError(f"not parsed: {parser.get_error(0).desc()} {tensorrt.log.errors[:1]}")
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    if capability is not None:
        tensorrt.set_compute_capabilities(config, [capability])
    shape = packed.shape
    for i, width in enumerate(shape.dims):
        sizes = [(batch, shape.tokens, width) for batch in (1, 1, LARGEST)]
        profile.set_shape(f"level_{i}", *sizes)
    config.add_optimization_profile(profile)
    built = builder.build_serialized_network(network, config)
    if built is None:
        raise PosterEdgeError(f"not built: {' | '.join(tensorrt.log.errors[:2])}")
    return built


class Engine:
    """A plan, opened and run on torch's tensors.

    Args:
        tensorrt: with the plugin loaded.
        built: from :func:`plan`.
    """

    def __init__(self, tensorrt: TensorRt, built: Any) -> None:
        self._runtime = tensorrt.runtime()
        self._engine = self._runtime.deserialize_cuda_engine(built)
        if self._engine is None:
            raise PosterEdgeError(f"not opened: {' | '.join(tensorrt.log.errors[:2])}")
        self._context = self._engine.create_execution_context()
        self._tensorrt, self._stream = tensorrt, torch.cuda.Stream()

    def run(self, levels: list[Tensor]) -> Tensor:
        """The first token (B, D0) of levels (B, T, D_i); all of them are kept for :meth:`capture`."""
        out = torch.full((len(levels[0]), levels[0].shape[2]), torch.nan, dtype=torch.float16, device="cuda")
        for i, level in enumerate(levels):
            self._context.set_input_shape(f"level_{i}", tuple(level.shape))
            self._context.set_tensor_address(f"level_{i}", level.data_ptr())
        self._context.set_tensor_address("first", out.data_ptr())
        self._kept = (levels, out)
        torch.cuda.synchronize()
        self._enqueue()
        torch.cuda.synchronize()
        return out

    def capture(self) -> torch.cuda.CUDAGraph:
        """The last run once more, as a graph that writes into the same tensor."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._stream):
            self._enqueue()
        return graph

    def _enqueue(self) -> None:
        self._tensorrt.log.clear()
        if not self._context.execute_async_v3(self._stream.cuda_stream):
            raise PosterEdgeError(f"not run: {' | '.join(self._tensorrt.log.errors[:2])}")
