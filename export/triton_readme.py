"""The README of a Triton repository: how to start the server, how to ask it, what is left to do."""

from __future__ import annotations

from typing import Any

from poster_edge.export.triton_config import ONNX, PLAN, Signature, profile_shapes
from poster_edge.export.triton_graphs import FACES, PROBABILITIES
from poster_edge.export.triton_options import TritonOptions


def readme(
    config: dict[str, Any],
    network: Signature,
    classes: tuple[str, ...],
    options: TritonOptions,
    *,
    interpolation: str,
) -> str:
    """Text of ``README.md``.

    Args:
        config: of the network.
        network: what it takes and gives.
        classes: in the order of the outputs.
        options: how it is served.
        interpolation: with which crops are resized.
    """
    name = config["name"]
    parts = [
        f"# {name} for Triton Inference Server",
        "Written and checked by poster-edge against the ONNX file; no server has run it. Outputs are apparent "
        "expressions, not feelings.",
        f"Classes, in order: {', '.join(classes)} (`labels.txt`).",
    ]
    if options.backend == "tensorrt":
        parts.append(_plan_section(name, network, options))
    parts.append(f"## Start\n\n{_shell('tritonserver --model-repository=.')}")
    parts.append(
        _ensemble_section(name, network, interpolation) if options.ensemble else _network_section(name, network)
    )
    parts.append(_notes(config, options))
    return "\n\n".join(p for p in parts if p) + "\n"


def _shell(command: str) -> str:
    return f"```sh\n{command}\n```"


def _plan_section(name: str, network: Signature, options: TritonOptions) -> str:
    shapes = " ".join(f"--{n}Shapes={s}" for n, s in profile_shapes(network, options).items())
    folder = f"{name}/1"
    return (
        "## Build the plan first\n\nA plan fits one kind of GPU and one version of TensorRT. On the server's GPU, "
        "with the TensorRT of the server's own release, in this folder:\n\n"
        + _shell(f"trtexec --onnx={folder}/{ONNX} --saveEngine={folder}/{PLAN} {shapes} --stronglyTyped")
        + "\n\nTensorRT 11 types every network strongly: leave `--stronglyTyped` out where it is refused. Without it "
        "TensorRT 10 would choose precisions of its own. The server does not start this model before the plan is there."
    )


def _ensemble_section(name: str, network: Signature, interpolation: str) -> str:
    size = network.inputs[0].dims[-1]
    code = f"""import cv2, numpy as np, tritonclient.grpc as triton  # pip install 'tritonclient[grpc]'
from poster_edge.data.preprocess import resize_square  # or your own resizing to {size} x {size}

client = triton.InferenceServerClient("localhost:8001")
crops = np.stack([resize_square(cv2.imread("face.jpg"), {size}, "{interpolation}")])  # uint8, OpenCV's BGR
batch = triton.InferInput("{FACES}", list(crops.shape), "UINT8")
batch.set_data_from_numpy(crops)
wanted = [triton.InferRequestedOutput("{PROBABILITIES}")]  # class_count=1 gives "probability:index:label"
print(client.infer("{name}-faces", [batch], outputs=wanted).as_numpy("{PROBABILITIES}"))"""
    return (
        f"## Ask\n\n`{name}-faces` takes face crops, uint8 (N, {size}, {size}, 3) in BGR, and gives calibrated "
        f"probabilities and the logits.\n\n```python\n{code}\n```"
    )


def _network_section(name: str, network: Signature) -> str:
    given, made = network.inputs[0], network.outputs[0]
    return (
        f"## Ask\n\n`{name}` takes `{given.name}`, float32 (N, {', '.join(map(str, given.dims))}), normalised as the "
        f"bundle's manifest says, and gives `{made.name}` (N, {made.dims[0]}): divide by the temperature, then softmax."
    )


def _notes(config: dict[str, Any], options: TritonOptions) -> str:
    lines = []
    if options.accelerator:
        lines.append(
            "- onnxruntime hands over to CUDA or the CPU in silence what TensorRT does not take: read the server's log "
            "(`--log-verbose=1`) once. The engine is built at each start."
        )
    if options.kind == "cpu" and config["backend"] == "onnxruntime":
        lines.append(
            "- An INT8 model needs a CPU with VNNI (or Arm), or weights of 7 bits (`--weight-bits 7`): without either, "
            "sums saturate, and the server's onnxruntime cannot be told to take its exact kernels. Every instance has "
            "its own threads: see `--threads`."
        )
    return "\n".join(["## Know", "", *lines]) if lines else ""
