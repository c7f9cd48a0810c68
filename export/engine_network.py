"""What a strongly typed network computes in, read off the tensors that TensorRT's parser made."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from poster_edge.export.tensorrt_api import TensorRt

if TYPE_CHECKING:
    import tensorrt as trt

#: TensorRT's name of a tensor type -> ours.
PRECISIONS = {"FLOAT": "fp32", "HALF": "fp16", "BF16": "bf16", "INT8": "int8", "FP8": "fp8", "INT4": "int4"}
#: Kind of layer that does the work -> what we call it.
COMPUTE = {
    "CONVOLUTION": "convolution",
    "DECONVOLUTION": "deconvolution",
    "MATRIX_MULTIPLY": "matrix product",
    "EINSUM": "matrix product",
}
#: Layers that move values without changing them: TensorRT takes a dequantisation past them.
_MOVES = {"SHUFFLE", "IDENTITY", "SLICE", "SQUEEZE", "UNSQUEEZE", "CAST"}


@dataclass(frozen=True)
class ComputeLayer:
    """A convolution or matrix product.

    Attributes:
        name: of its ONNX node.
        kind: a value of :data:`COMPUTE`.
        precision: that it computes in; "int8" when both operands were dequantised from INT8.
    """

    name: str
    kind: str
    precision: str


@dataclass(frozen=True)
class NetworkSummary:
    """A parsed network.

    Attributes:
        compute: its convolutions and matrix products.
        others: kind and type of output of every other layer -> how many.
        softmaxes: how many attention maps there are.
        plugins: names of the nodes that plugins compute.
    """

    compute: tuple[ComputeLayer, ...]
    others: dict[str, int]
    softmaxes: int
    plugins: tuple[str, ...] = ()


def summarise(tensorrt: TensorRt, network: trt.INetworkDefinition) -> NetworkSummary:
    """Read the types of every layer of a parsed network."""
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    made_by = {layer.get_output(i).name: layer for layer in layers for i in range(layer.num_outputs)}
    compute: list[ComputeLayer] = []
    others: Counter[str] = Counter()
    for layer in layers:
        kind = layer.type.name
        if kind in COMPUTE and _is_floating(layer):
            compute.append(ComputeLayer(layer.name, COMPUTE[kind], _precision(tensorrt, layer, made_by)))
        elif layer.num_outputs:
            others[f"{kind.lower()} {type_name(layer.get_output(0).dtype)}"] += 1
    softmaxes = sum(layer.type == tensorrt.module.LayerType.SOFTMAX for layer in layers)
    plugins = tuple(layer.name for layer in layers if layer.type == tensorrt.module.LayerType.PLUGIN_V3)
    return NetworkSummary(tuple(compute), dict(sorted(others.items())), softmaxes, plugins)


def type_name(dtype: trt.DataType) -> str:
    """Our name of a tensor type."""
    return PRECISIONS.get(dtype.name, dtype.name.lower())


def _is_floating(layer: trt.ILayer) -> bool:
    return layer.get_output(0).dtype.name in PRECISIONS


def _precision(tensorrt: TensorRt, layer: trt.ILayer, made_by: dict[str, trt.ILayer]) -> str:
    operands = [layer.get_input(i) for i in range(min(2, layer.num_inputs))]
    sources = {_dequantised_from(tensorrt, tensor, made_by) for tensor in operands}
    # A convolution with float weights shows one operand: its kernel is no tensor of the network.
    if len(operands) == 2 and len(sources) == 1 and (narrow := sources.pop()) is not None:
        return narrow
    return type_name(operands[0].dtype)


def _dequantised_from(tensorrt: TensorRt, tensor: trt.ITensor, made_by: dict[str, trt.ILayer]) -> str | None:
    """Type that a tensor was dequantised from, or None where it was not."""
    layer = made_by.get(tensor.name)
    while layer is not None and layer.type.name in _MOVES:
        layer = made_by.get(layer.get_input(0).name)
    if layer is None or layer.type != tensorrt.module.LayerType.DEQUANTIZE:
        return None
    return type_name(layer.get_input(0).dtype)
