"""Which combinations are compared, and what is refused when it was asked for by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from poster_edge.bench.candidates import Wanted, comparisons
from poster_edge.errors import UnavailableError, UsageError
from poster_edge.export.engine_plugin import PluginLibrary
from poster_edge.runtime.bundle import Bundle, load_bundle
from poster_edge.runtime.manifest import Artefact, BundleError


@pytest.fixture(scope="module")
def nano() -> Bundle:
    return load_bundle("poster-nano")


def with_models(bundle: Bundle, *files: str) -> Bundle:
    """The same bundle, claiming to hold other files."""
    kinds = {"model.onnx": ("fp32", ""), "model.int8.onnx": ("int8", "inputs-outputs")}
    artefacts = {f: Artefact("0" * 64, 1, *kinds.get(f, ("", ""))) for f in files}
    return Bundle(bundle.folder, replace(bundle.manifest, artefacts=artefacts))


def pairs(bundle: Bundle, wanted: Wanted) -> list[tuple[str, str]]:
    (comparison,), _ = comparisons([("m", bundle)], wanted)
    return [(c.runtime, c.precision) for c in comparison.candidates]


def test_pytorch_comes_first_and_is_the_baseline(nano: Bundle) -> None:
    (comparison,), notes = comparisons([("poster-nano", nano)], Wanted(runtimes=("onnxruntime",)))
    first, second = comparison.candidates
    assert (first.label, first.baseline, first.kernels) == ("PyTorch eager", True, "sdpa")
    assert (second.label, second.baseline, second.asked) == ("onnxruntime fp32", False, True)
    assert notes == []


def test_all_precisions_of_the_bundle(nano: Bundle) -> None:
    both = with_models(nano, "model.onnx", "model.int8.onnx", "model.safetensors")
    found = pairs(both, Wanted(runtimes=("onnxruntime", "torch-compile")))
    assert found == [("torch", "fp32"), ("onnxruntime", "fp32"), ("onnxruntime", "int8"), ("torch-compile", "fp32")]


def test_without_weights_onnxruntime_is_the_baseline_and_it_is_said(nano: Bundle) -> None:
    bare = with_models(nano, "model.onnx")
    (comparison,), (note,) = comparisons([("m", bare)], Wanted(runtimes=("onnxruntime", "openvino")))
    assert [c.label for c in comparison.candidates] == ["onnxruntime fp32", "openvino fp32"]
    assert "no PyTorch baseline" in note
    assert "--checkpoint" in note


@pytest.mark.parametrize(
    "wanted",
    [Wanted(baseline="torch"), Wanted(runtimes=("torch",)), Wanted(runtimes=("onnxruntime", "torch-compile"))],
    ids=["baseline", "runtime", "compile"],
)
def test_pytorch_by_name_needs_weights(nano: Bundle, wanted: Wanted) -> None:
    with pytest.raises(UnavailableError, match="no weights for PyTorch"):
        comparisons([("m", with_models(nano, "model.onnx"))], wanted)


def test_a_checkpoint_is_weights(nano: Bundle, tmp_path: Path) -> None:
    bare = with_models(nano, "model.onnx")
    assert pairs(bare, Wanted(runtimes=("onnxruntime",), checkpoint=tmp_path))[0] == ("torch", "fp32")


def test_each_tensorrt_is_timed_with_the_plugin_too(nano: Bundle) -> None:
    plugin = PluginLibrary(Path("/plugin.so"), "0" * 64, "fp16")
    both = with_models(nano, "model.onnx", "model.plugin-fp16.onnx")
    wanted = Wanted(runtimes=("onnxruntime", "tensorrt"), precisions=("fp32",), plugin=plugin)
    (comparison,), _ = comparisons([("m", both)], wanted)
    labels = ["onnxruntime fp32", "tensorrt fp32", "tensorrt with plugin fp16"]
    assert [(c.label, c.plugin) for c in comparison.candidates] == [(x, "/plugin.so" * ("with" in x)) for x in labels]
    assert len({c.weights for c in comparison.candidates}) == 3
    with pytest.raises(UsageError, match="add --runtime tensorrt"):
        comparisons([("m", both)], replace(wanted, runtimes=("onnxruntime",)))
    with pytest.raises(BundleError, match="no graph for a plugin in fp16"):
        comparisons([("m", with_models(nano, "model.onnx"))], wanted)


def test_torch_has_no_int8(nano: Bundle) -> None:
    both = with_models(nano, "model.onnx", "model.int8.onnx", "model.safetensors")
    found = pairs(both, Wanted(runtimes=("torch", "onnxruntime"), precisions=("fp32", "int8")))
    assert found == [("torch", "fp32"), ("onnxruntime", "fp32"), ("onnxruntime", "int8")]
    with pytest.raises(UnavailableError, match="torch computes in fp32, fp16 or bf16, not in int8"):
        comparisons([("m", both)], Wanted(runtimes=("torch",), precisions=("int8",)))
    with pytest.raises(UnavailableError, match="bf16"):
        comparisons([("m", both)], Wanted(runtimes=("onnxruntime",), precisions=("fp32", "bf16")))


@pytest.mark.parametrize("wanted", [Wanted(runtimes=("tflite",)), Wanted(precisions=("int4",))])
def test_unknown_names(nano: Bundle, wanted: Wanted) -> None:
    with pytest.raises(UsageError, match="expected some of"):
        comparisons([("m", nano)], wanted)


def test_every_batch_and_thread_count_is_a_comparison_and_a_frame_has_no_batch(nano: Bundle) -> None:
    wanted = Wanted(runtimes=("onnxruntime", "torch-compile"), batches=(1, 8), threads=(1, 2), frames=True)
    planned, notes = comparisons([("m", nano)], wanted)
    assert [(p.scope, p.batch, p.threads) for p in planned] == [
        ("model", 1, 1),
        ("model", 8, 1),
        ("model", 1, 2),
        ("model", 8, 2),
        ("frame", 1, 1),
        ("frame", 1, 2),
    ]
    assert "torch-compile" in {c.runtime for c in planned[0].candidates}
    assert "torch-compile" not in {c.runtime for c in planned[-1].candidates}
    assert "torch.compile" in notes[0]


def test_every_model_has_its_own_baseline(nano: Bundle) -> None:
    (comparison,), _ = comparisons([("a", nano), ("b", nano)], Wanted(runtimes=("onnxruntime",)))
    assert [(c.model, c.baseline) for c in comparison.candidates] == [
        ("a", True),
        ("a", False),
        ("b", True),
        ("b", False),
    ]
