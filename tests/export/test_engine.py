"""Building engines from small graphs: shapes, errors with node names, progress, stopping, inspector reports."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from poster_edge.errors import InputError, UnavailableError
from poster_edge.export.engine import Phases, build_engine
from poster_edge.export.engine_network import ComputeLayer
from poster_edge.export.engine_report import EngineReport, built_precisions, check_precision
from poster_edge.export.engine_spec import EngineSpec, Profile
from poster_edge.export.tensorrt_api import RTX, TensorRt

SPEC = EngineSpec(RTX, Profile(1, 2, 4), compute_capabilities=("8.6",))


def graph(*, batch: int | str = "N", side: int | str = 8, op: str = "Conv", attributes: Any = None) -> bytes:
    """A convolution and a ReLU over (batch, 3, side, side)."""
    kernel = numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float16), "kernel")
    nodes = [
        helper.make_node(op, ["image", "kernel"], ["mid"], name="first", **(attributes or {})),
        helper.make_node("Relu", ["mid"], ["out"], name="second"),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT16, [batch, 3, side, side])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT16, None)
    made = helper.make_graph(nodes, "small", [image], [out], [kernel])
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())


def test_builds_and_tells_about_it(rtx: TensorRt) -> None:
    seen: list[tuple[float, str]] = []
    engine = build_engine(rtx, graph(), SPEC, progress=lambda fraction, phase: seen.append((fraction, phase)))
    assert engine.plan
    assert engine.tensorrt == rtx.version
    assert engine.network.compute == (ComputeLayer("first", "convolution", "fp16"),)
    assert engine.network.others == {"activation fp16": 1}
    assert engine.seconds > 0
    assert engine.peak_rss_mb > 50
    fractions = [fraction for fraction, _ in seen]
    assert fractions == sorted(fractions)
    assert 0 < fractions[-1] <= 1
    assert all(phase for _, phase in seen)


def test_a_fixed_batch_must_be_the_one_asked_for(rtx: TensorRt) -> None:
    assert build_engine(rtx, graph(batch=2), EngineSpec(RTX, Profile(2, 2, 2), compute_capabilities=("8.6",))).plan
    with pytest.raises(InputError, match="'image' is fixed at batch 2; batches 1/2/4 were asked for"):
        build_engine(rtx, graph(batch=2), SPEC)


def test_only_the_batch_may_be_open(rtx: TensorRt) -> None:
    with pytest.raises(InputError, match=r"'image' has the shape \[-1, 3, -1, -1\]; only the batch"):
        build_engine(rtx, graph(side="S"), SPEC)


def test_an_unknown_operator_is_named_with_its_node(rtx: TensorRt) -> None:
    with pytest.raises(UnavailableError, match=r"TensorRT-RTX .* cannot read this model: Frobnicate 'first': .+") as e:
        build_engine(rtx, graph(op="Frobnicate"), SPEC)
    assert "\n" not in str(e.value)


def test_a_wrong_shape_is_named_with_its_node(rtx: TensorRt) -> None:
    with pytest.raises(UnavailableError, match="Conv 'first'"):
        build_engine(rtx, graph(attributes={"kernel_shape": [5, 5, 5]}), SPEC)


@pytest.mark.parametrize("data", [b"", b"not a model", b"\x08\x07"], ids=["empty", "text", "no-graph"])
def test_what_is_no_onnx_is_refused(rtx: TensorRt, data: bytes) -> None:
    with pytest.raises(InputError, match="no ONNX graph"):
        build_engine(rtx, data, SPEC)


def test_cut_files_are_refused(rtx: TensorRt) -> None:
    whole = graph()
    for length in range(20, len(whole) - 1, 37):
        with pytest.raises((InputError, UnavailableError)):
            build_engine(rtx, whole[:length], SPEC)


@pytest.mark.parametrize("name", [b"first", b"image", b"Frobnicate"])
def test_names_that_are_no_text_are_refused(rtx: TensorRt, name: bytes) -> None:
    data = graph(op="Frobnicate" if name == b"Frobnicate" else "Conv")
    with pytest.raises(InputError, match="a name in it is no text"):
        build_engine(rtx, data.replace(name, b"\xff" * len(name)), SPEC)


def test_a_node_without_outputs_is_refused(rtx: TensorRt) -> None:
    """TensorRT-RTX 1.7 would end the process."""
    model = onnx.load_from_string(graph())
    model.graph.node[0].ClearField("output")
    with pytest.raises(InputError, match="a node in it has no output"):
        build_engine(rtx, model.SerializeToString(), SPEC)


def test_broken_files_do_no_harm(rtx: TensorRt) -> None:
    """In a process of its own: each is built, or refused by an error of ours."""
    done = subprocess.run(
        [sys.executable, "-c", _BREAK], capture_output=True, text=True, check=False, input=graph().hex()
    )
    assert done.returncode == 0, done.stderr[-2000:]
    refused = int(done.stdout)
    assert 30 < refused < 100


_BREAK = """
import sys
import numpy as np
from poster_edge.errors import InputError, UnavailableError
from poster_edge.export.engine import build_engine
from poster_edge.export.engine_spec import EngineSpec
from poster_edge.export.tensorrt_api import RTX, load

whole, random, refused = bytes.fromhex(sys.stdin.read()), np.random.default_rng(0), 0
for _ in range(100):
    data = bytearray(whole)
    for place in random.integers(0, len(data), 3):
        data[place] = random.integers(0, 256)
    try:
        build_engine(load(RTX), bytes(data), EngineSpec(RTX, compute_capabilities=("8.6",)))
    except (InputError, UnavailableError):
        refused += 1
print(refused)
"""


def test_weights_outside_the_file_are_refused(rtx: TensorRt) -> None:
    model = onnx.load_from_string(graph())
    kernel = model.graph.initializer[0]
    kernel.data_location = TensorProto.EXTERNAL
    kernel.external_data.add(key="location", value="/etc/hostname")
    with pytest.raises(InputError, match="outside the file"):
        build_engine(rtx, model.SerializeToString(), SPEC)


def test_ctrl_c_stops_the_build(rtx: TensorRt, monkeypatch: pytest.MonkeyPatch) -> None:
    """The waiting thread hears it, the builder is told at its next step, nothing is left running."""
    join, steps = threading.Thread.join, []

    def interrupted(thread: threading.Thread, timeout: float | None = None) -> None:
        if timeout is not None:
            raise KeyboardInterrupt
        join(thread)

    monkeypatch.setattr(threading.Thread, "join", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build_engine(rtx, graph(), SPEC, progress=lambda fraction, phase: steps.append(phase))
    assert not [t for t in threading.enumerate() if t.name == "tensorrt-build"]
    assert any("BuildCanceled" in line for line in rtx.log.errors)


def test_progress_never_falls() -> None:
    phases = Phases()
    phases.start("build", None, 2)
    phases.start("inner", "build", 4)
    phases.step("inner", 1)
    assert phases.fraction == pytest.approx(0.25)
    phases.finish("inner")
    assert phases.fraction == pytest.approx(0.25)
    phases.step("build", 0)
    assert phases.fraction == pytest.approx(0.5)
    phases.step("unheard of", 7)
    phases.finish("build")
    assert phases.fraction == 1


def layer(kind: str, type_: str, *nodes: str) -> dict[str, Any]:
    """As an inspector of TensorRT 10 writes it."""
    tensor = {"Name": "x", "Dimensions": [1, 3, 8, 8], "Format/Datatype": type_}
    metadata = "\x1e".join(f"[ONNX Layer: {n}]" for n in nodes)
    return {"Name": "+".join(nodes) or "copy", "LayerType": kind, "Inputs": [tensor], "Metadata": metadata}


def test_an_inspected_engine_overrules_the_network() -> None:
    parsed = tuple(ComputeLayer(n, "convolution", "int8") for n in ("a", "b", "c"))
    layers = [
        layer("Reformat", "Row major linear FP32", "a"),
        layer("CaskConvolution", "Int8 NC/32HW32", "a", "relu_a"),
        layer("CaskConvolution", "Row major linear FP32", "b"),
        layer("Myelin", "Half", "c", "b"),
    ]
    compute, others, unknown = built_precisions(layers, parsed)
    assert [(c.name, c.precision) for c in compute] == [("a", "int8"), ("b", "fp32"), ("c", "int8")]
    assert others == {"myelin fp16": 1, "reformat fp32": 1}
    assert unknown == 1
    report = EngineReport("built", {"convolution": {"int8": ["a", "c"], "fp32": ["b"]}}, others, 0, 0)
    with pytest.raises(UnavailableError, match=r"1 layers compute in FP32 \(built\): b;"):
        check_precision(report, "int8")
    check_precision(report, "int8", floats={"b"})
    check_precision(report, "fp32")
