"""FP16 written into the graph: every tensor's type is explicit, nothing is left to a builder's flags.

Inputs and outputs stay float32.  LayerNormalization keeps its statistics in float32 (ONNX's
``stash_type``); nodes whose values come near the end of FP16's range stay in float32 between casts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from poster_edge.errors import PosterEdgeError
from poster_edge.export.graph import Graph, constant, rebuild, tensor_types, with_outputs

FP16_MAX = float(np.finfo(np.float16).max)
#: Room that is left above the largest value seen.
HEADROOM = 8.0
#: Operators with inputs that must be float32 whatever the data's type is.
_FLOAT32_ONLY = frozenset({"Resize", "Range", "RandomNormal", "RandomUniform"})


def to_fp16(
    model: onnx.ModelProto,
    *,
    islands: Collection[str] = (),
    input_range: tuple[float, float] | None = None,
) -> onnx.ModelProto:
    """A copy of a float32 (or Q/DQ) model that computes in FP16.

    Args:
        model: with float32 inputs and outputs; they stay so.
        islands: names of nodes that stay in float32.
        input_range: what preprocessing can yield.  The input is clamped to it, which changes no
            picture and keeps whatever else is fed from overflowing.

    Raises:
        PosterEdgeError: a weight is beyond FP16's range outside an island, or the graph is beyond this converter.
    """
    return _Converter(model, frozenset(islands), input_range).convert()


def overflow_islands(model: onnx.ModelProto, batches: Iterable[NDArray[np.float32]]) -> dict[str, float]:
    """Nodes that come near the end of FP16's range, with the largest magnitude that they read or write.

    Args:
        model: float32, one input.
        batches: (N, 3, S, S) each, normalised.

    Raises:
        PosterEdgeError: the float32 model itself gives values that are not finite.
    """
    graph = Graph(model)
    peaks = value_peaks(model, batches)
    for name, tensor in graph.initializers.items():
        if tensor.data_type == TensorProto.FLOAT:
            peaks[name] = float(np.abs(graph.array(name)).max(initial=0.0))
    limit = FP16_MAX / HEADROOM
    found: dict[str, float] = {}
    for node in graph.nodes:
        peak = max((peaks.get(n, 0.0) for n in (*node.input, *node.output)), default=0.0)
        if peak > limit:
            found[node.name] = peak
    return found


def value_peaks(model: onnx.ModelProto, batches: Iterable[NDArray[np.float32]]) -> dict[str, float]:
    """Largest magnitude of every tensor that the nodes of a float32 model make, over all batches (N, 3, S, S).

    Raises:
        PosterEdgeError: a value is not finite.
    """
    names = Graph(model).float_tensors()
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.enable_cpu_mem_arena = False
    session = ort.InferenceSession(
        with_outputs(model, names).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    feed = session.get_inputs()[0].name
    peaks = dict.fromkeys(names, 0.0)
    for batch in batches:
        for name, value in zip(names, session.run(names, {feed: batch}), strict=True):
            peak = float(np.abs(value).max(initial=0.0))
            if not np.isfinite(peak):
                raise PosterEdgeError(f"'{name}' is not finite in float32 already: the model is broken")
            peaks[name] = max(peaks[name], peak)
    return peaks


class _Converter:
    def __init__(
        self, model: onnx.ModelProto, islands: frozenset[str], input_range: tuple[float, float] | None
    ) -> None:
        self.model = model
        self.graph = Graph(model)
        self.types = tensor_types(model)
        unknown = islands - {n.name for n in self.graph.nodes}
        if unknown:
            raise PosterEdgeError(f"the graph has no nodes named {', '.join(sorted(unknown))}")
        self.islands = islands | {n.name for n in self.graph.nodes if n.op_type in _FLOAT32_ONLY}
        self.input_range = input_range
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, TensorProto] = {}
        # (tensor, element type) -> the name under which it exists in that type
        self.versions: dict[tuple[str, int], str] = {}

    def convert(self) -> onnx.ModelProto:
        for value in self.model.graph.input:
            if self.types[value.name] == TensorProto.FLOAT:
                self.versions[value.name, TensorProto.FLOAT] = self._clamped(value.name)
        for node in self.graph.nodes:
            self._node(node)
        for name in self.graph.outputs:
            self._emit_output(name)
        return rebuild(self.model, self.nodes, self.initializers.values())

    def _clamped(self, name: str) -> str:
        if self.input_range is None:
            return name
        bounds = [f"{name}_lowest", f"{name}_highest"]
        for bound, limit in zip(bounds, self.input_range, strict=True):
            self.initializers[bound] = constant(bound, np.array(limit, np.float32))
        self._add("Clip", [name, *bounds], f"{name}_clamped")
        return f"{name}_clamped"

    def _add(self, op: str, inputs: list[str], output: str, **attributes: Any) -> None:
        self.nodes.append(helper.make_node(op, inputs, [output], name=f"{op}_{output}", **attributes))

    def _node(self, node: onnx.NodeProto) -> None:
        kind = TensorProto.FLOAT if node.name in self.islands else TensorProto.FLOAT16
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.input[:] = [self._input(name, kind) for name in node.input]
        if kind == TensorProto.FLOAT16:
            _retype(copy)
        for i, name in enumerate(node.output):
            if self.types.get(name) == TensorProto.FLOAT:
                copy.output[i] = self._own_name(name, kind)
                self.versions[name, kind] = copy.output[i]
        self.nodes.append(copy)

    def _own_name(self, name: str, kind: int) -> str:
        """A graph output keeps its name for its float32 version."""
        return f"{name}_fp16" if name in self.graph.outputs and kind == TensorProto.FLOAT16 else name

    def _input(self, name: str, kind: int) -> str:
        if self.types.get(name) != TensorProto.FLOAT:
            if name in self.graph.initializers:
                self.initializers[name] = self.graph.initializers[name]
            return name
        if (name, kind) in self.versions:
            return self.versions[name, kind]
        if name in self.graph.initializers:
            return self._initializer(name, kind)
        other = TensorProto.FLOAT if kind == TensorProto.FLOAT16 else TensorProto.FLOAT16
        source = self.versions[name, other]
        target = f"{name}_as_{'fp16' if kind == TensorProto.FLOAT16 else 'fp32'}"
        self._add("Cast", [source], target, to=kind)
        self.versions[name, kind] = target
        return target

    def _initializer(self, name: str, kind: int) -> str:
        values, own = self.graph.array(name), f"{name}_fp32"
        if kind == TensorProto.FLOAT16:
            values, own = _narrowed(name, values), name
        self.initializers[own] = constant(own, values)
        self.versions[name, kind] = own
        return own

    def _emit_output(self, name: str) -> None:
        if self.types[name] == TensorProto.FLOAT and (name, TensorProto.FLOAT) not in self.versions:
            self._add("Cast", [self.versions[name, TensorProto.FLOAT16]], name, to=TensorProto.FLOAT)


def _narrowed(name: str, values: NDArray) -> NDArray[np.float16]:
    peak = float(np.abs(values).max(initial=0.0))
    # -inf masks keep their meaning as the lowest finite value.
    if np.isfinite(peak) and peak > FP16_MAX:
        raise PosterEdgeError(f"'{name}' holds {peak:.3g}, beyond FP16's range; keep its node in FP32")
    return np.clip(values, -FP16_MAX, FP16_MAX).astype(np.float16)


def _retype(node: onnx.NodeProto) -> None:
    """Turn float32 constants and cast targets inside a node into FP16."""
    for attribute in node.attribute:
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
            attribute.i = TensorProto.FLOAT16
        elif attribute.type == onnx.AttributeProto.TENSOR and attribute.t.data_type == TensorProto.FLOAT:
            values = _narrowed(node.name, numpy_helper.to_array(attribute.t))
            attribute.t.CopyFrom(numpy_helper.from_array(values, attribute.t.name))


def input_range(mean: Iterable[float], std: Iterable[float]) -> tuple[float, float]:
    """Smallest and largest value that pixels in 0..1 can have after normalisation."""
    pairs = list(zip(mean, std, strict=True))
    return min((0 - m) / s for m, s in pairs), max((1 - m) / s for m, s in pairs)
