"""An ONNX graph as a list of costs: operations and bytes of every node at one batch size."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from poster_edge.bench.layers_flops import UNCOUNTED, other_operations, product_flops
from poster_edge.errors import InputError
from poster_edge.optional import require

if TYPE_CHECKING:
    import onnx

#: Nodes that give their input another shape or number format without storing it again: DequantizeLinear is
#: computed by whoever reads it.
_VIEWS = frozenset({"DequantizeLinear", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity"})
#: Nodes that read no more of their first input than they put out.
_PARTS = frozenset({"Slice", "Gather", "Split"})


@dataclass(frozen=True)
class Tensor:
    """A tensor of the graph.

    Attributes:
        shape: at the graph's batch size.
        bits: of one value as stored.
        floating: whether its values are floating-point numbers.
        constant: whether it does not depend on the input: a weight, or computed from weights.
    """

    shape: tuple[int, ...]
    bits: int
    floating: bool = True
    constant: bool = False

    @property
    def bytes(self) -> int:
        """Size as stored."""
        return math.ceil(math.prod(self.shape) * self.bits / 8)


@dataclass(frozen=True)
class Node:
    """A node that depends on the graph's input.

    Attributes:
        name: as in the file.
        op: its type.
        inputs: tensors, "" left out.
        outputs: tensors.
        flops: of its products, 2 per multiply-add.
        others: element-wise operations, roughly.
        precision: "int8" where both factors are stored as integers, else the format of the output.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    flops: int
    others: int
    precision: str


@dataclass(frozen=True)
class Cost:
    """What a group of nodes computes and moves when nothing inside it is stored.

    Attributes:
        flops: precision -> operations of products, 2 per multiply-add.
        others: element-wise operations, roughly.
        weights, inputs, outputs: bytes, each tensor once.
    """

    flops: dict[str, int]
    others: int
    weights: int
    inputs: int
    outputs: int

    @property
    def total_flops(self) -> int:
        """Operations of products in every precision."""
        return sum(self.flops.values())

    @property
    def bytes(self) -> int:
        """Weights, inputs and outputs."""
        return self.weights + self.inputs + self.outputs


@dataclass(frozen=True)
class Graph:
    """Nodes in the order of execution, and what they pass on.

    Attributes:
        batch: B.
        nodes: those that depend on the input; the rest is folded before anything runs.
        tensors: every tensor by name.
        sources: tensor -> the tensor that is stored for it, where that is another (a view, a DequantizeLinear).
        results: outputs of the graph.
        notes: what could not be counted.
    """

    batch: int
    nodes: tuple[Node, ...]
    tensors: dict[str, Tensor]
    sources: dict[str, str]
    results: frozenset[str]
    notes: tuple[str, ...]

    @cached_property
    def producer(self) -> dict[str, int]:
        """Tensor -> index of the node that makes it."""
        return {t: i for i, n in enumerate(self.nodes) for t in n.outputs}

    @cached_property
    def readers(self) -> dict[str, list[int]]:
        """Stored tensor -> indices of the nodes that read it, through views too."""
        found: dict[str, list[int]] = {}
        for i, node in enumerate(self.nodes):
            if node.op not in _VIEWS:
                for tensor in node.inputs:
                    found.setdefault(self.stored(tensor), []).append(i)
        return found

    def stored(self, tensor: str) -> str:
        """The tensor that lies in memory for this one."""
        return self.sources.get(tensor, tensor)

    def cost(self, nodes: Iterable[int]) -> Cost:
        """Cost of a group of nodes: weights, and what crosses the group's border, each once.

        Args:
            nodes: indices.
        """
        group = set(nodes)
        made = {t for i in group for t in self.nodes[i].outputs}
        reads: dict[str, int] = {}
        flops: dict[str, int] = {}
        for node in (self.nodes[i] for i in sorted(group)):
            if node.flops:
                flops[node.precision] = flops.get(node.precision, 0) + node.flops
            for tensor, size in self._reads(node):
                if tensor not in made:
                    reads[tensor] = reads.get(tensor, 0) + size
        sizes = {t: min(size, self.tensors[t].bytes) for t, size in reads.items()}
        weights = sum(size for t, size in sizes.items() if self.tensors[t].constant)
        written = [t for t in made if self._leaves(t, group)]
        return Cost(
            flops,
            sum(self.nodes[i].others for i in group),
            weights,
            sum(sizes.values()) - weights,
            sum(self.tensors[t].bytes for t in written),
        )

    def total(self) -> Cost:
        """Cost of the whole graph with everything between input and output kept on the chip."""
        return self.cost(range(len(self.nodes)))

    def _reads(self, node: Node) -> list[tuple[str, int]]:
        """Stored tensors that a node reads, and how much of each."""
        if node.op in _VIEWS:
            return []
        names = [self.stored(t) for t in node.inputs]
        sizes = [self.tensors[t].bytes for t in names]
        if node.op in _PARTS and names:
            each = self.tensors[names[0]].bits / 8
            sizes[0] = min(sizes[0], math.ceil(sum(math.prod(self.tensors[t].shape) for t in node.outputs) * each))
        return list(zip(names, sizes, strict=True))

    def _leaves(self, tensor: str, group: set[int]) -> bool:
        """Whether a stored tensor is read outside the group, or is a result."""
        if tensor in self.sources:
            return False
        return tensor in self._stored_results or any(i not in group for i in self.readers.get(tensor, []))

    @cached_property
    def _stored_results(self) -> set[str]:
        return {self.stored(t) for t in self.results}


def read_graph(data: bytes, *, batch: int) -> Graph:
    """Cost a model: shapes by ONNX's own shape inference, operations and bytes by this module.

    Args:
        data: an ONNX file whose one input has a free first dimension.
        batch: B.

    Raises:
        UnavailableError: the package onnx is missing.
        InputError: it is no ONNX model, or a shape depends on more than the batch.
    """
    onnx = require("onnx", purpose="count the operations of a model's layers")
    try:
        model = onnx.load_from_string(data)
        if len(model.functions):
            model = require("onnx.inliner", purpose="open functions").inline_local_functions(model)
        for value in model.graph.input:
            value.type.tensor_type.shape.dim[0].dim_value = batch
        model = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    except Exception as error:  # protobuf, the checker and the inference each raise their own
        raise InputError(f"the model's shapes cannot be inferred at batch {batch}: {error}") from error
    return _Reader(onnx, model, batch).graph()


class _Reader:
    """Builds a :class:`Graph` from a model with shapes."""

    def __init__(self, onnx: Any, model: onnx.ModelProto, batch: int) -> None:
        self._onnx, self._graph, self._batch = onnx, model.graph, batch
        self._tensors: dict[str, Tensor] = {}
        self._sources: dict[str, str] = {}
        self._widened: set[str] = set()
        self._types: dict[str, int] = {}

    def graph(self) -> Graph:
        proto = self._graph
        for weight in proto.initializer:
            self._add(weight.name, weight.data_type, tuple(weight.dims), constant=True)
        for value in (*proto.input, *proto.output, *proto.value_info):
            self._add_value(value)
        nodes = [node for node in map(self._node, proto.node) if node]
        notes = [f"products of {n.op} '{n.name}' are not counted" for n in nodes if n.op in UNCOUNTED]
        results = frozenset(v.name for v in proto.output)
        return Graph(self._batch, tuple(nodes), self._tensors, self._sources, results, tuple(notes))

    def _add_value(self, value: onnx.ValueInfoProto) -> None:
        kind = value.type.tensor_type
        if any(not d.HasField("dim_value") for d in kind.shape.dim):
            raise InputError(f"the shape of '{value.name}' depends on more than the batch; its cost is not known")
        self._add(value.name, kind.elem_type, tuple(d.dim_value for d in kind.shape.dim))

    def _add(self, name: str, kind: int, shape: tuple[int, ...], *, constant: bool = False) -> None:
        if name in self._tensors and self._tensors[name].constant:
            return
        self._types[name] = kind
        proto = self._onnx.TensorProto
        floating = kind in (proto.FLOAT, proto.FLOAT16, proto.BFLOAT16, proto.DOUBLE)
        self._tensors[name] = Tensor(shape, self._bits(kind), floating, constant)

    def _bits(self, kind: int) -> int:
        name = self._onnx.TensorProto.DataType.Name(kind)
        if name.endswith("INT4"):
            return 4
        return 8 * int(self._onnx.helper.tensor_dtype_to_np_dtype(kind).itemsize)

    def _node(self, proto: onnx.NodeProto) -> Node | None:
        inputs = tuple(t for t in proto.input if t)
        outputs = tuple(t for t in proto.output if t)
        for tensor in outputs:
            if tensor not in self._tensors:
                raise InputError(f"no shape is known of '{tensor}', an output of {proto.op_type} '{proto.name}'")
        if proto.op_type in _VIEWS or (proto.op_type == "Transpose" and self._constant(inputs[0])):
            self._see_through(proto.op_type, inputs[0], outputs[0])
        if all(self._constant(t) for t in inputs):
            for tensor in outputs:
                self._tensors[tensor] = replace(self._tensors[tensor], constant=True)
            return None
        shapes = [self._tensors[t].shape if t else () for t in proto.input]
        results = [self._tensors[t].shape for t in outputs]
        attributes = {a.name: self._onnx.helper.get_attribute_value(a) for a in proto.attribute}
        flops = product_flops(proto.op_type, shapes, results, attributes)
        others = other_operations(proto.op_type, shapes, results, attributes)
        precision = self._precision(inputs, outputs, products=flops > 0)
        return Node(proto.name, proto.op_type, inputs, outputs, flops, others, precision)

    def _see_through(self, op: str, source: str, result: str) -> None:
        self._sources[result] = self._sources.get(source, source)
        if op == "DequantizeLinear" or source in self._widened:
            self._widened.add(result)

    def _constant(self, tensor: str) -> bool:
        return self._tensors[tensor].constant

    def _precision(self, inputs: tuple[str, ...], outputs: tuple[str, ...], *, products: bool) -> str:
        """Number format of the multiplication: INT8 only where both factors are stored as integers."""
        proto = self._onnx.TensorProto
        integers = {proto.INT8, proto.UINT8}
        if products and all(t in self._widened or self._types[t] in integers for t in inputs[:2]):
            return "int8"
        kind = self._types[outputs[0]]
        return "fp16" if kind in (proto.FLOAT16, proto.BFLOAT16) else "fp32" if kind == proto.FLOAT else "other"
