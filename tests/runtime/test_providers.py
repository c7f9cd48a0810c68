"""onnxruntime's providers: asked for by name they run or are refused; a silent replacement is noticed."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

import poster_edge
from poster_edge.errors import UnavailableError, UsageError
from poster_edge.export.gpu import visible_gpus
from poster_edge.export.onnx_bytes import check_self_contained
from poster_edge.optional import available
from poster_edge.runtime.bundle import Bundle, load_bundle, write_bundle
from poster_edge.runtime.manifest import BundleError
from poster_edge.runtime.ort_runner import OrtRunner
from poster_edge.runtime.providers import (
    PROVIDERS,
    Provider,
    elsewhere,
    find_provider,
    missing,
    open_session,
    provider_options,
    require_provider,
)

ROOT = Path(poster_edge.__file__).parents[1]
SAMPLE = ROOT / "poster_edge" / "zoo" / "samples" / "astronaut.jpg"
#: A provider of the usual CPU wheel that takes no node: the silent replacement, for real.
LAZY = Provider("azure", "AzureExecutionProvider", "Azure", "")
no_gpu = pytest.mark.skipif(bool(visible_gpus()), reason="a GPU is visible here; make gpu-check looks at it")


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return load_bundle("poster-nano")


def settings() -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    return options


@pytest.mark.parametrize(
    ("device", "kind", "index"),
    [
        ("cpu", "cpu", 0),
        ("cuda", "cuda", 0),
        ("cuda:3", "cuda", 3),
        ("tensorrt:1", "tensorrt", 1),
        ("tensorrt-rtx:0", "tensorrt-rtx", 0),
        ("tensorrt-rtx", "tensorrt-rtx", 0),
    ],
)
def test_devices(device: str, kind: str, index: int) -> None:
    found = find_provider(device, "fp32")
    assert (found.kind, found.index, found.name) == (kind, index, PROVIDERS[kind].name)


@pytest.mark.parametrize(
    "device", ["", "gpu", "cpu:0", "cuda:", "cuda:x", "cuda:-1", "cuda:0:1", "rtx:0", "TENSORRT:0"]
)
def test_devices_that_are_none(device: str) -> None:
    with pytest.raises(UsageError, match="expected auto, cpu, cuda:N, tensorrt:N or tensorrt-rtx:N"):
        find_provider(device, "fp32")


def test_placement_of_int8(bundle: Bundle, tmp_path: Path) -> None:
    assert PROVIDERS["cpu"].placement == "inputs-outputs"
    assert PROVIDERS["tensorrt"].placement == PROVIDERS["tensorrt-rtx"].placement == "inputs"
    with pytest.raises(UnavailableError, match="computes INT8 models in float"):
        find_provider("cuda:0", "int8")
    assert find_provider("auto", "int8").kind == "cpu"


def test_options_of_cuda() -> None:
    options = provider_options(find_provider("cuda:2", "fp32"), image="image", size=48, cache_folder=None)
    assert options == {"device_id": "2", "use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}


def test_options_of_tensorrt(tmp_path: Path) -> None:
    provider = find_provider("tensorrt:1", "fp16")
    options = provider_options(provider, image="image", size=48, cache_folder=tmp_path)
    assert options["device_id"] == "1"
    assert [options[f"trt_profile_{n}_shapes"] for n in ("min", "opt", "max")] == [
        "image:1x3x48x48",
        "image:4x3x48x48",
        "image:16x3x48x48",
    ]
    # Either flag would make the network weakly typed, and TensorRT choose the precision.
    assert options["trt_fp16_enable"] == options["trt_int8_enable"] == "0"
    assert options["trt_engine_cache_enable"] == options["trt_timing_cache_enable"] == "1"
    assert options["trt_engine_cache_path"] == options["trt_timing_cache_path"] == str(tmp_path)
    assert options["trt_dump_ep_context_model"] == "0"
    bare = provider_options(provider, image="image", size=48, cache_folder=None)
    assert bare["trt_engine_cache_enable"] == "0"
    assert not [o for o in bare if o.endswith("_path")]
    assert all(isinstance(v, str) for v in options.values())


def test_options_of_rtx_are_known_to_the_plugin(tmp_path: Path) -> None:
    """Its header names every option; device and precision have none."""
    options = provider_options(find_provider("tensorrt-rtx:0", "fp32"), image="image", size=224, cache_folder=tmp_path)
    assert options["nv_profile_max_shapes"] == "image:16x3x224x224"
    assert options["nv_runtime_cache_path"] == str(tmp_path)
    header = Path(ort.__file__).parents[1] / "onnxruntime_ep_nv_tensorrt_rtx" / "tensorrt_rtx_provider_options.h"
    if not header.is_file():
        if os.environ.get("POSTER_EDGE_REQUIRE_RTX"):
            pytest.fail("POSTER_EDGE_REQUIRE_RTX is set, but the plugin's header is not there")
        pytest.skip("needs TensorRT-RTX's plugin: make rtx")
    text = header.read_text()
    assert [o for o in options if f'"{o}"' not in text] == []


@no_gpu
@pytest.mark.parametrize("kind", ["cuda", "tensorrt", "tensorrt-rtx"])
def test_what_is_missing_here_is_named_with_a_remedy(kind: str) -> None:
    provider = PROVIDERS[kind]
    lack = missing(provider)
    assert lack is not None
    with pytest.raises(UnavailableError) as caught:
        require_provider(provider)
    text = str(caught.value)
    assert text.startswith(f"onnxruntime on {provider.label}: {lack[0]}; {lack[1]}, or use --device cpu")
    assert "\n" not in text
    if kind != "tensorrt-rtx":
        assert "onnxruntime-gpu" in text


@no_gpu
def test_the_plugin_without_a_driver_is_one_clear_line() -> None:
    """The real library, registered for real; in a process of its own, as it changes the one it is in."""
    if not available("onnxruntime_ep_nv_tensorrt_rtx"):
        if os.environ.get("POSTER_EDGE_REQUIRE_RTX"):
            pytest.fail("POSTER_EDGE_REQUIRE_RTX is set, but the plugin is not installed")
        pytest.skip("needs TensorRT-RTX's plugin: make rtx")
    program = """
from poster_edge.errors import UnavailableError
from poster_edge.runtime.providers import register_rtx
try:
    register_rtx()
except UnavailableError as error:
    raise SystemExit(str(error))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=ROOT, env=dict(os.environ)
    )
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("onnxruntime on TensorRT-RTX: the plugin cannot be loaded: libcuda.so.1: cannot open shared")
    assert line.endswith("is an NVIDIA driver installed?")


def test_every_node_is_told(bundle: Bundle) -> None:
    provider = PROVIDERS["cpu"]
    session = open_session(bundle.read("model.onnx"), settings(), provider, {})
    assert session.get_providers() == ["CPUExecutionProvider"]
    assert not elsewhere(session, provider)


def test_a_silent_replacement_is_refused(bundle: Bundle) -> None:
    """The provider is in the session, as get_providers() says, and the CPU runs every node."""
    session = open_session(bundle.read("model.onnx"), settings(), LAZY, {})
    assert session.get_providers()[0] == LAZY.name
    with pytest.raises(UnavailableError, match=r"does not take .*43 Conv, .* which would run on the CPU; use --device"):
        elsewhere(session, LAZY)


def test_nodes_without_arithmetic_may_stay_behind() -> None:
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])
    graph = helper.make_graph([helper.make_node("Sigmoid", ["x"], ["y"])], "g", [image], [out])
    data = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()
    assert elsewhere(open_session(data, settings(), LAZY, {}), LAZY) == {"Sigmoid": 1}


def test_a_provider_that_is_not_there_never_becomes_the_cpu(bundle: Bundle) -> None:
    absent = replace(LAZY, name="CUDAExecutionProvider", label="CUDA")
    if absent.name in ort.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    with pytest.raises(UnavailableError, match="takes 0 of the GPUs here"):
        open_session(bundle.read("model.onnx"), settings(), absent, {})


def test_a_model_with_an_engine_inside_is_refused() -> None:
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 8, 8])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 7])
    node = helper.make_node(
        "EPContext", ["image"], ["logits"], domain="com.microsoft", embed_mode=0, ep_cache_context="/tmp/evil.engine"
    )
    graph = helper.make_graph([node], "g", [image], [logits])
    data = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString()
    with pytest.raises(ValueError, match="compiled engine"):
        check_self_contained(data)


def test_a_context_model_never_reaches_a_gpu_provider(bundle: Bundle, tmp_path: Path) -> None:
    node = helper.make_node("EPContext", ["image"], ["logits"], domain="com.microsoft")
    source = tmp_path / "model.onnx"
    graph = helper.make_graph([node], "g", [], [])
    source.write_bytes(helper.make_model(graph).SerializeToString())
    evil = write_bundle(tmp_path / "b", replace(bundle.manifest, artefacts={}), {"model.onnx": source})
    runner = OrtRunner(evil, device="cpu")
    with pytest.raises(BundleError, match="compiled engine"):
        runner._check_bytes(evil.read("model.onnx"))


def test_many_images_go_through_in_batches(bundle: Bundle) -> None:
    """As for an engine, whose largest batch is 16; here on the CPU."""
    images = np.random.default_rng(0).normal(size=(37, 3, 48, 48)).astype(np.float32)
    with OrtRunner(bundle, device="cpu", threads=1) as runner:
        whole = runner.infer({"image": images})["logits"]
        runner.provider = replace(runner.provider, kind="tensorrt")
        assert [len(b["image"]) for b in runner._batches({"image": images})] == [16, 16, 5]
        parts = runner.infer({"image": images})["logits"]
    assert parts.shape == (37, 7)
    np.testing.assert_allclose(parts, whole, rtol=0, atol=1e-5)


@no_gpu
@pytest.mark.parametrize("device", ["cuda:0", "tensorrt:0", "tensorrt-rtx:0"])
@pytest.mark.parametrize("runtime", ["auto", "onnxruntime"])
def test_run_refuses_with_a_clean_stdout(device: str, runtime: str) -> None:
    words = [
        "run",
        "--source",
        str(SAMPLE),
        "--detector",
        "haar",
        "--jsonl",
        "-",
        "--runtime",
        runtime,
        "--device",
        device,
    ]
    done = subprocess.run(
        [sys.executable, "-m", "poster_edge", *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=dict(os.environ),
    )
    assert done.returncode == 4, done.stderr
    assert done.stdout == ""
    errors = [line for line in done.stderr.splitlines() if line.startswith("error")]
    assert len(errors) == 1
    assert "or use --device cpu" in errors[0]
    assert "Traceback" not in done.stderr
