"""The ensemble's first and last step as ONNX graphs: what ``data.preprocess`` and the softmax do, on the server.

Preprocessing takes crops that already have the network's size: OpenCV's resizing rounds in its own fixed-point
way, which ONNX's Resize does not, so the client resizes (``poster_edge.data.preprocess.resize_square``).  From
there on the server's numbers equal ``to_input``'s to the last bit: the same float32 operations in the same order,
and OpenCV's integer formula for gray (15 bits, checked on all 2^24 colours with OpenCV 4.14).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from poster_edge.config import Preprocess

FACES, PROBABILITIES = "faces", "probabilities"
#: Both steps: LayerNormalization's opset and IR are far above; any onnxruntime in use knows these.
_OPSET, _IR = 17, 8
#: OpenCV's weights of blue, green and red, over 2^15.
_GRAY, _GRAY_BITS = (3735, 19235, 9798), 15


def preprocess_graph(preprocess: Preprocess, output: str) -> onnx.ModelProto:
    """``faces``, uint8 (N, S, S, 3) in OpenCV's BGR order, to the network's float32 (N, 3, S, S).

    Args:
        preprocess: the model's own settings; its size is S.
        output: name of the network's input.
    """
    size = preprocess.size
    constants: dict[str, Any] = {
        "scale": np.float32(1 / 255),
        "mean": np.asarray(preprocess.mean, np.float32)[:, None, None],
        "std": np.asarray(preprocess.std, np.float32)[:, None, None],
    }
    if preprocess.colour == "gray":
        nodes, pixels = _gray(constants)
    else:
        nodes, pixels = _colours(constants, reverse=preprocess.colour == "rgb")
    nodes += [
        helper.make_node("Cast", [pixels], ["float"], to=TensorProto.FLOAT),
        # N x S x S x C -> N x C x S x S
        helper.make_node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Mul", ["planes", "scale"], ["scaled"]),
        # One gray channel becomes three here, as the mean has three.
        helper.make_node("Sub", ["scaled", "mean"], ["centred"]),
        helper.make_node("Div", ["centred", "std"], [output]),
    ]
    faces = helper.make_tensor_value_info(FACES, TensorProto.UINT8, ["batch", size, size, 3])
    image = helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", 3, size, size])
    return _model("preprocess", nodes, [faces], [image], constants)


def _gray(constants: dict[str, Any]) -> tuple[list[onnx.NodeProto], str]:
    """(B * 3735 + G * 19235 + R * 9798 + 2^14) >> 15, in integers."""
    constants["weights"] = np.array(_GRAY, np.int32)
    constants["half"], constants["whole"] = np.int32(1 << (_GRAY_BITS - 1)), np.int32(1 << _GRAY_BITS)
    constants["axis"] = np.array([3], np.int64)
    nodes = [
        helper.make_node("Cast", [FACES], ["bgr"], to=TensorProto.INT32),
        helper.make_node("Mul", ["bgr", "weights"], ["weighted"]),
        # N x S x S x 3 -> N x S x S x 1
        helper.make_node("ReduceSum", ["weighted", "axis"], ["sum"], keepdims=1),
        helper.make_node("Add", ["sum", "half"], ["rounded"]),
        helper.make_node("Div", ["rounded", "whole"], ["gray"]),
    ]
    return nodes, "gray"


def _colours(constants: dict[str, Any], *, reverse: bool) -> tuple[list[onnx.NodeProto], str]:
    if not reverse:
        return [], FACES
    constants["order"] = np.array([2, 1, 0], np.int64)
    return [helper.make_node("Gather", [FACES, "order"], ["rgb"], axis=3)], "rgb"


def postprocess_graph(classes: int, temperature: float, logits: str) -> onnx.ModelProto:
    """Logits (N, C) to ``probabilities`` (N, C): temperature and softmax in float64, rounded once to float32.

    Args:
        classes: C.
        temperature: divides the logits; of the file that is served.
        logits: name of the network's output.
    """
    nodes = [
        helper.make_node("Cast", [logits], ["double"], to=TensorProto.DOUBLE),
        helper.make_node("Div", ["double", "temperature"], ["calibrated"]),
        helper.make_node("Softmax", ["calibrated"], ["shares"], axis=1),
        helper.make_node("Cast", ["shares"], [PROBABILITIES], to=TensorProto.FLOAT),
    ]
    given = helper.make_tensor_value_info(logits, TensorProto.FLOAT, ["batch", classes])
    made = helper.make_tensor_value_info(PROBABILITIES, TensorProto.FLOAT, ["batch", classes])
    return _model("postprocess", nodes, [given], [made], {"temperature": np.float64(temperature)})


def _model(
    name: str,
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    constants: dict[str, Any],
) -> onnx.ModelProto:
    tensors = [numpy_helper.from_array(np.asarray(v), n) for n, v in constants.items()]
    graph = helper.make_graph(nodes, name, inputs, outputs, tensors)
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR, producer_name="poster-edge"
    )
    onnx.checker.check_model(model, full_check=True)
    return model
