"""INT8 written into the graph as Quantize/DequantizeLinear pairs around what is to be computed in integers.

Symmetric everywhere (zero points of 0), weights per output channel, biases in float.  Two placements
from the same ranges:

- ``inputs-outputs``: convolutions are quantised on both sides and elementwise operators between them
  carry pairs too, which is what onnxruntime's integer kernels ask for;
- ``inputs``: only what enters a quantised operator, the rest for FP16: TensorRT's and OpenVINO's form.

Weights of 7 bits (-63 to 63) are for x86 CPUs without VNNI, whose fast integer kernels add products in
pairs in 16 bits: 2 x 255 x 63 fits, 2 x 255 x 127 does not.

Source: Wu et al., "Integer Quantization for Deep Learning Inference" (2020), sections 3 and 4.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper

from poster_edge.calib.ranges import LEVELS, PAIRS_FIT
from poster_edge.calib.rewrite import rewrite
from poster_edge.errors import PosterEdgeError, UsageError
from poster_edge.export.graph import Graph, constant, rebuild

#: Bits of a weight -> its largest level.
WEIGHT_LEVELS = {8: LEVELS, 7: LEVELS // 2}

#: Operators between convolutions that onnxruntime computes in integers when pairs stand on both sides.
_CARRIERS = frozenset({"Relu", "LeakyRelu", "Add", "MaxPool"})
_FP16_MIN_NORMAL = float(np.finfo(np.float16).tiny)


@dataclass(frozen=True)
class Site:
    """One operator that is computed in INT8.

    Attributes:
        node: its name in the graph.
        kind: "conv", "linear" or "attention" (a product of two activations).
        activations: the tensors that enter it and must have a range.
        weight: its constant operand, or None.
        axis: output-channel axis of the weight.
        output: the tensor it makes.
    """

    node: str
    kind: str
    activations: tuple[str, ...]
    weight: str | None
    axis: int
    output: str


def find_sites(model: onnx.ModelProto) -> list[Site]:
    """Every operator of a float32 model that can be computed in INT8, in order.

    1-D convolutions (the token mix) are left out: OpenVINO 2026.4 computes them wrongly in INT8.
    """
    graph = Graph(model)
    return [s for node in graph.nodes if (s := _site(graph, node)) is not None]


def _site(graph: Graph, node: onnx.NodeProto) -> Site | None:
    if node.op_type not in ("Conv", "Gemm", "MatMul"):
        return None
    data, other = node.input[0], node.input[1]
    if data in graph.initializers:
        return None
    weight = graph.initializers.get(other)
    if node.op_type == "MatMul" and weight is None:
        return Site(node.name, "attention", (data, other), None, 0, node.output[0])
    if weight is None or weight.data_type != TensorProto.FLOAT:
        return None
    rank = len(weight.dims)
    if node.op_type == "Conv":
        return Site(node.name, "conv", (data,), other, 0, node.output[0]) if rank == 4 else None
    if rank != 2:
        return None
    transposed = any(a.name == "transB" and a.i for a in node.attribute)
    return Site(node.name, "linear", (data,), other, 0 if transposed else 1, node.output[0])


def tensors_to_calibrate(model: onnx.ModelProto) -> list[str]:
    """Names of all tensors whose range either placement may need, in the graph's order."""
    graph = Graph(model)
    sites = find_sites(model)
    wanted = {t for s in sites for t in s.activations} | {s.output for s in sites if s.kind == "conv"}
    wanted |= {n.output[0] for n in graph.nodes if n.op_type in _CARRIERS}
    names = [*(i.name for i in model.graph.input), *(o for n in graph.nodes for o in n.output)]
    return [n for n in names if n in wanted]


def quantise(
    model: onnx.ModelProto,
    ranges: Mapping[str, float],
    *,
    placement: str,
    kinds: Collection[str] = ("conv", "linear"),
    exclude: Collection[str] = (),
    fp16_scales: bool = False,
    weight_bits: int = 8,
    keep: Collection[str] = (),
) -> onnx.ModelProto:
    """A copy of a float32 model with Q/DQ pairs, rewritten by :mod:`poster_edge.calib.rewrite` before.

    Args:
        model: as exported.
        ranges: largest magnitude of each tensor of :func:`tensors_to_calibrate`.
        placement: "inputs-outputs" or "inputs".
        kinds: which kinds of :class:`Site` are quantised.
        exclude: names of nodes that stay in float.
        fp16_scales: choose scales that FP16 represents exactly, for a rest in FP16.
        weight_bits: 8, or 7 for CPUs without VNNI; the graph's metadata then says :data:`PAIRS_FIT`.
        keep: names of nodes that are not rewritten.

    Raises:
        UsageError: unknown placement or number of bits.
        PosterEdgeError: a range is missing.
    """
    if placement not in ("inputs-outputs", "inputs"):
        raise UsageError(f"placement {placement!r}: expected inputs-outputs or inputs")
    if weight_bits not in WEIGHT_LEVELS:
        raise UsageError(f"weights of {weight_bits} bits: expected 8 or 7")
    sites = [s for s in find_sites(model) if s.kind in kinds and s.node not in exclude]
    missing = {t for s in sites for t in s.activations} - ranges.keys()
    if missing:
        raise PosterEdgeError(f"no range for {len(missing)} tensors, such as '{min(missing)}': calibrate this graph")
    model = rewrite(model, placement=placement, keep=keep)
    quantiser = _Quantiser(model, ranges, sites, fp16_scales, WEIGHT_LEVELS[weight_bits])
    result = quantiser.run(both_sides=placement == "inputs-outputs")
    # A product of two activations has 8 bits on both sides, whatever the weights have.
    if weight_bits == 7 and all(s.weight for s in sites):
        onnx.helper.set_model_props(result, {PAIRS_FIT: "true"})
    return result


class _Quantiser:
    def __init__(
        self,
        model: onnx.ModelProto,
        ranges: Mapping[str, float],
        sites: list[Site],
        fp16_scales: bool,
        weight_levels: int,
    ) -> None:
        self.model, self.ranges, self.fp16_scales = model, ranges, fp16_scales
        self.weight_levels = weight_levels
        self.graph = Graph(model)
        self.site_of = {s.node: s for s in sites}
        self.initializers = dict(self.graph.initializers)
        # weights that have been quantised for a reader already
        self.taken: set[str] = set()
        self.head: list[onnx.NodeProto] = []
        # (tensor, reading node) -> what that node reads instead
        self.reads: dict[tuple[str, str], str] = {}
        # tensor -> nodes that stand right behind its producer
        self.behind: dict[str, list[onnx.NodeProto]] = {}
        self.chain: set[str] = set()
        self.both_sides = False

    def run(self, *, both_sides: bool) -> onnx.ModelProto:
        self.both_sides = both_sides
        self.chain = self._integer_chain() if both_sides else set()
        inputs = [value.name for value in self.model.graph.input]
        for tensor in (*inputs, *(o for n in self.graph.nodes for o in n.output)):
            if tensor in self.chain:
                self._pair_in_chain(tensor)
            else:
                self._pair_for_sites(tensor)
        nodes: list[onnx.NodeProto] = []
        for name in inputs:
            nodes += self.behind.get(name, [])
        for node in self.graph.nodes:
            nodes.append(self._rewired(node))
            for name in node.output:
                nodes += self.behind.get(name, [])
        return rebuild(self.model, [*self.head, *nodes], self.initializers.values())

    def _integer_chain(self) -> set[str]:
        """What convolutions write, and carriers that alone read such tensors and are read once.

        Other carriers are cheaper in float: a residual stream with two readers would be rounded and
        converted back and forth for each.
        """
        chain = {s.output for s in self.site_of.values() if s.kind == "conv" and self._may_carry(s.output)}
        for node in self.graph.nodes:
            alone = all(n in chain and len(self.graph.consumers[n]) == 1 for n in node.input)
            output = node.output[0]
            if node.op_type in _CARRIERS and alone and self._may_carry(output) and self._read_once(output):
                chain.add(output)
        return chain

    def _may_carry(self, tensor: str) -> bool:
        return tensor in self.ranges and tensor not in self.graph.outputs

    def _read_once(self, tensor: str) -> bool:
        return len(self.graph.consumers.get(tensor, [])) == 1

    def _pair_for_sites(self, tensor: str) -> None:
        """A pair for each quantised operator that reads a tensor: everything else keeps its precision.

        On x86 onnxruntime turns INT8 into UINT8 pair by pair and passes over a QuantizeLinear with
        several readers; all that touches it would fall back to float.  For others one pair will do.
        """
        readers = [n for n in self.graph.consumers.get(tensor, []) if self._quantises(n, tensor)]
        apart = self.both_sides and len(readers) > 1
        paired = self._pair(tensor, tensor, tensor) if readers and not apart else ""
        for node in readers:
            self.reads[tensor, node.name] = paired or self._pair(tensor, tensor, f"{tensor}_for_{node.name}")

    def _pair_in_chain(self, tensor: str) -> None:
        """A pair right behind a convolution; readers in float share it, quantised ones get pairs of their own.

        Two pairs in a row would be merged, and the first has several readers then: a LeakyRelu of slope 1
        stands between them, which changes nothing, is not optimised away and runs on all threads.
        """
        readers = self.graph.consumers.get(tensor, [])
        paired = self._pair(tensor, tensor, tensor)
        shared = paired
        if len(readers) > 1:
            shared = f"{tensor}_shared"
            same = helper.make_node("LeakyRelu", [paired], [shared], name=f"{tensor}_same", alpha=1.0)
            self.behind[tensor].append(same)
        for node in readers:
            own = len(readers) > 1 and self._quantises(node, tensor)
            self.reads[tensor, node.name] = self._pair(tensor, shared, f"{tensor}_for_{node.name}") if own else shared

    def _quantises(self, node: onnx.NodeProto, tensor: str) -> bool:
        site = self.site_of.get(node.name)
        return site is not None and tensor in site.activations

    def _range_of(self, tensor: str) -> float:
        """A tensor that only a ReLU reads is clipped below zero anyway: it takes the ReLU's finer range."""
        readers = self.graph.consumers.get(tensor, [])
        if tensor in self.chain and len(readers) == 1 and readers[0].op_type == "Relu":
            return self.ranges.get(readers[0].output[0], self.ranges[tensor])
        return self.ranges[tensor]

    def _pair(self, tensor: str, source: str, stem: str) -> str:
        """Q and DQ of one activation, behind its producer; returns the name of what comes out."""
        self._scales(stem, self._scale(np.array(self._range_of(tensor))), np.zeros((), np.int8))
        constants, quantised, out = [f"{stem}_scale", f"{stem}_zero_point"], f"{stem}_quantized", f"{stem}_dequantized"
        self.behind.setdefault(tensor, []).extend(
            (
                helper.make_node("QuantizeLinear", [source, *constants], [quantised], name=f"{stem}_QuantizeLinear"),
                helper.make_node("DequantizeLinear", [quantised, *constants], [out], name=f"{stem}_DequantizeLinear"),
            )
        )
        return out

    def _scale(self, top: np.ndarray, levels: int = LEVELS) -> np.ndarray:
        """Scale of a range; a range of 0 (nothing but zeros was seen) gets the smallest useful one."""
        scale = np.maximum(top.astype(np.float64) / levels, 1e-12).astype(np.float32)
        if not self.fp16_scales:
            return scale
        # FP16 keeps fewer digits: round up, so that nothing is clipped that was not, and stay normal.
        half = scale.astype(np.float16)
        half = np.where(half < scale, np.nextafter(half, np.float16(np.inf)), half)
        return np.maximum(half.astype(np.float32), np.float32(_FP16_MIN_NORMAL))

    def _scales(self, name: str, scale: np.ndarray, zero: np.ndarray) -> None:
        self.initializers[f"{name}_scale"] = constant(f"{name}_scale", scale)
        self.initializers[f"{name}_zero_point"] = constant(f"{name}_zero_point", zero)

    def _weight(self, site: Site) -> str:
        """The quantised weight of one operator.

        Operators that share a weight get a copy each: on x86 onnxruntime turns INT8 weights into UINT8
        reader by reader, and stops with an error when it meets one a second time.
        """
        assert site.weight is not None
        values = self.graph.array(site.weight)
        others = tuple(i for i in range(values.ndim) if i != site.axis)
        top = self.weight_levels
        scale = self._scale(np.abs(values).max(axis=others), top)
        shape = [-1 if i == site.axis else 1 for i in range(values.ndim)]
        levels = np.clip(np.rint(values / scale.reshape(shape)), -top, top).astype(np.int8)
        stem = site.weight if site.weight not in self.taken else f"{site.weight}_of_{site.node}"
        self.taken.add(site.weight)
        self.initializers[f"{stem}_quantized"] = constant(f"{stem}_quantized", levels)
        self._scales(stem, scale, np.zeros(len(scale), np.int8))
        self.head.append(
            helper.make_node(
                "DequantizeLinear",
                [f"{stem}_quantized", f"{stem}_scale", f"{stem}_zero_point"],
                [f"{stem}_dequantized"],
                name=f"{stem}_DequantizeLinear",
                axis=site.axis,
            )
        )
        return f"{stem}_dequantized"

    def _rewired(self, node: onnx.NodeProto) -> onnx.NodeProto:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        site = self.site_of.get(node.name)
        for i, name in enumerate(node.input):
            if site is not None and name == site.weight:
                copy.input[i] = self._weight(site)
            else:
                copy.input[i] = self.reads.get((name, node.name), name)
        if node.op_type == "Relu" and self.chain.issuperset((node.input[0], node.output[0])):
            # The same function; onnxruntime has an integer kernel for this name only.
            copy.op_type = "LeakyRelu"
            copy.attribute.append(helper.make_attribute("alpha", 0.0))
        return copy
