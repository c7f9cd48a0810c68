"""How much each operator loses by being computed in INT8, all of them in one pass.

Beside every operator that could be quantised stands a quantised copy that reads the same float
inputs; the graph itself sums the squares of what the two disagree about.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper

from poster_edge.calib.qdq import find_sites, quantise


@dataclass(frozen=True)
class LayerError:
    """Error of one operator in INT8 on exact inputs.

    Attributes:
        node: its name.
        kind: "conv", "linear" or "attention".
        relative: root of the squared error over the squared output, summed over the images.
    """

    node: str
    kind: str
    relative: float


def layer_errors(
    model: onnx.ModelProto,
    ranges: Mapping[str, float],
    batches: Iterable[NDArray[np.float32]],
    *,
    kinds: Iterable[str] = ("conv", "linear"),
    weight_bits: int = 8,
    threads: int | None = None,
) -> list[LayerError]:
    """Error of every operator that could be quantised, largest first.

    Args:
        model: float32, as exported.
        ranges: of its tensors.
        batches: images (N, 3, S, S), normalised; a few dozen are enough.
        kinds: which kinds of operators.
        weight_bits: see :func:`poster_edge.calib.qdq.quantise`.
        threads: of one operator; None leaves the choice to onnxruntime.
    """
    chosen = frozenset(kinds)
    sites = [s for s in find_sites(model) if s.kind in chosen]
    quantised = quantise(model, ranges, placement="inputs", kinds=chosen, weight_bits=weight_bits)
    shadow = _shadow_graph(model, quantised, {s.node for s in sites})
    options = ort.SessionOptions()
    options.log_severity_level = 3
    # Optimised, the pairs would become integer kernels of this one machine.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if threads:
        options.intra_op_num_threads = threads
    session = ort.InferenceSession(shadow.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [f"{s.node}_{part}" for s in sites for part in ("error", "power")]
    sums = np.zeros(len(names))
    feed = model.graph.input[0].name
    for batch in batches:
        sums += [float(v) for v in session.run(names, {feed: batch})]
    errors = [
        LayerError(s.node, s.kind, float(np.sqrt(sums[2 * i] / max(sums[2 * i + 1], 1e-30))))
        for i, s in enumerate(sites)
    ]
    return sorted(errors, key=lambda e: -e.relative)


def _shadow_graph(model: onnx.ModelProto, quantised: onnx.ModelProto, names: set[str]) -> onnx.ModelProto:
    shadow = onnx.ModelProto()
    shadow.CopyFrom(model)
    del shadow.graph.output[:]
    own = {t.name for t in shadow.graph.initializer}
    shadow.graph.initializer.extend(t for t in quantised.graph.initializer if t.name not in own)
    for node in quantised.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            shadow.graph.node.add().CopyFrom(node)
        elif node.name in names:
            copy = shadow.graph.node.add()
            copy.CopyFrom(node)
            output, copy.name = node.output[0], f"{node.name}_int8"
            copy.output[0] = f"{output}_int8"
            _compare(shadow.graph, node.name, output)
    return shadow


def _compare(graph: onnx.GraphProto, name: str, output: str) -> None:
    graph.node.append(
        helper.make_node("Sub", [output, f"{output}_int8"], [f"{name}_difference"], name=f"{name}_difference")
    )
    for part, source in (("error", f"{name}_difference"), ("power", output)):
        result = f"{name}_{part}"
        graph.node.append(helper.make_node("ReduceSumSquare", [source], [result], name=result, keepdims=0))
        graph.output.append(helper.make_tensor_value_info(result, TensorProto.FLOAT, []))
