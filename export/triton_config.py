"""``config.pbtxt`` of each model of a Triton repository, made from the ONNX file's own names, shapes and types.

Source: ``model_config.proto`` of Triton Inference Server, and the README of its onnxruntime backend.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import TensorProto

from poster_edge.errors import PosterEdgeError
from poster_edge.export.pbtxt import Word
from poster_edge.export.triton_options import TritonOptions

LABELS = "labels.txt"
PLAN, ONNX = "model.plan", "model.onnx"
#: Threads of the ensemble's small steps, whose work is no match for a thread pool.
_SMALL = 1
_TYPES: dict[int, str] = {
    TensorProto.FLOAT: "TYPE_FP32",
    TensorProto.FLOAT16: "TYPE_FP16",
    TensorProto.DOUBLE: "TYPE_FP64",
    TensorProto.UINT8: "TYPE_UINT8",
    TensorProto.INT8: "TYPE_INT8",
    TensorProto.INT32: "TYPE_INT32",
    TensorProto.INT64: "TYPE_INT64",
    TensorProto.BOOL: "TYPE_BOOL",
}


@dataclass(frozen=True)
class Tensor:
    """An input or output as Triton sees it.

    Attributes:
        name: of the tensor.
        data_type: such as "TYPE_FP32".
        dims: sizes after the batch; -1: any.
        batch: 0: any; else the only one that the file takes.
    """

    name: str
    data_type: str
    dims: tuple[int, ...]
    batch: int = 0


@dataclass(frozen=True)
class Signature:
    """Inputs and outputs of one model."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


def signature(model: onnx.ModelProto) -> Signature:
    """What an ONNX file takes and gives.

    Raises:
        PosterEdgeError: a tensor has no shape, or a type that the server does not know.
    """
    constants = {t.name for t in model.graph.initializer}
    inputs = tuple(_tensor(v) for v in model.graph.input if v.name not in constants)
    return Signature(inputs, tuple(_tensor(v) for v in model.graph.output))


def _tensor(value: onnx.ValueInfoProto) -> Tensor:
    kind = value.type.tensor_type
    sizes = [d.dim_value if d.HasField("dim_value") else -1 for d in kind.shape.dim]
    if kind.elem_type not in _TYPES or len(sizes) < 2:
        raise PosterEdgeError(f"'{value.name}' of the graph has no type or shape that a Triton server can take")
    return Tensor(value.name, _TYPES[kind.elem_type], tuple(sizes[1:]), max(sizes[0], 0))


def network_config(name: str, found: Signature, options: TritonOptions, *, labelled: str) -> dict[str, Any]:
    """Configuration of the network.

    Args:
        name: of the model, and of its folder.
        found: what its file takes and gives.
        options: how it is to be served.
        labelled: the output whose columns the labels file names.
    """
    plan = options.backend == "tensorrt"
    config: dict[str, Any] = {
        "name": name,
        "platform": "tensorrt_plan" if plan else "onnxruntime_onnx",
        "backend": options.backend,
        "default_model_filename": PLAN if plan else ONNX,
        **_tensors(found, options.max_batch, labelled),
        "version_policy": {"latest": {"num_versions": 1}},
        "instance_group": [{"count": options.instances, "kind": Word(f"KIND_{options.kind.upper()}")}],
    }
    if options.max_batch > 1:
        config["dynamic_batching"] = {
            "preferred_batch_size": list(options.preferred_sizes),
            "max_queue_delay_microseconds": options.queue_delay_us,
        }
    if options.accelerator:
        accelerator = {"name": "tensorrt", "parameters": _profile(found, options)}
        config["optimization"] = {"execution_accelerators": {"gpu_execution_accelerator": [accelerator]}}
    if options.threads is not None:
        config["parameters"] = [_parameter("intra_op_thread_count", options.threads)]
    config["model_warmup"] = [_warmup(found, size) for size in dict.fromkeys((1, options.max_batch))]
    return config


def step_config(name: str, found: Signature, options: TritonOptions, *, labelled: str = "") -> dict[str, Any]:
    """Configuration of the ensemble's pre- or postprocessing, which runs on the CPU in onnxruntime."""
    return {
        "name": name,
        "platform": "onnxruntime_onnx",
        "backend": "onnxruntime",
        "default_model_filename": ONNX,
        **_tensors(found, options.max_batch, labelled),
        "version_policy": {"latest": {"num_versions": 1}},
        "instance_group": [{"count": options.instances, "kind": Word("KIND_CPU")}],
        "parameters": [_parameter("intra_op_thread_count", _SMALL)],
        "model_warmup": [_warmup(found, 1)],
    }


def ensemble_config(
    name: str, steps: Sequence[tuple[str, Signature]], outputs: Sequence[Tensor], max_batch: int, *, labelled: str
) -> dict[str, Any]:
    """Configuration that joins models in a line: tensors go from step to step by their names.

    Args:
        name: of the ensemble.
        steps: (model, what it takes and gives), in order.
        outputs: those tensors of the steps that the client gets.
        max_batch: of all of them.
        labelled: the output whose columns the labels file names.
    """
    return {
        "name": name,
        "platform": "ensemble",
        **_tensors(Signature(steps[0][1].inputs, tuple(outputs)), max_batch, labelled),
        "version_policy": {"latest": {"num_versions": 1}},
        "ensemble_scheduling": {
            "step": [
                {
                    "model_name": model,
                    "model_version": -1,
                    "input_map": [{"key": t.name, "value": t.name} for t in found.inputs],
                    "output_map": [{"key": t.name, "value": t.name} for t in found.outputs],
                }
                for model, found in steps
            ]
        },
    }


def _tensors(found: Signature, max_batch: int, labelled: str) -> dict[str, Any]:
    outputs = []
    for tensor in found.outputs:
        label = {"label_filename": LABELS} if tensor.name == labelled else {}
        outputs.append({"name": tensor.name, **_shape(tensor), **label})
    inputs = [{"name": t.name, **_shape(t)} for t in found.inputs]
    return {"max_batch_size": max_batch, "input": inputs, "output": outputs}


def _shape(tensor: Tensor) -> dict[str, Any]:
    return {"data_type": Word(tensor.data_type), "dims": list(tensor.dims)}


def _warmup(found: Signature, batch: int) -> dict[str, Any]:
    """A batch of zeros, the mean face, before the first request: memory is taken and kernels are chosen."""
    inputs = [{"key": t.name, "value": {**_shape(t), "zero_data": True}} for t in found.inputs]
    return {"name": f"batch-{batch}", "batch_size": batch, "inputs": inputs}


def _parameter(key: str, value: int) -> dict[str, Any]:
    return {"key": key, "value": {"string_value": str(value)}}


def _profile(found: Signature, options: TritonOptions) -> list[dict[str, str]]:
    """One engine for every batch; without ``precision_mode`` it computes in the types that the graph names."""
    return [{"key": f"trt_profile_{n}_shapes", "value": s} for n, s in profile_shapes(found, options).items()]


def profile_shapes(found: Signature, options: TritonOptions) -> dict[str, str]:
    """ "min", "opt" and "max" -> shapes such as "image:4x3x48x48", as trtexec and onnxruntime take them."""
    sizes = {"min": 1, "opt": (options.preferred_sizes or (1,))[0], "max": options.max_batch}
    return {
        name: ",".join(f"{t.name}:{'x'.join(map(str, (batch, *t.dims)))}" for t in found.inputs)
        for name, batch in sizes.items()
    }
