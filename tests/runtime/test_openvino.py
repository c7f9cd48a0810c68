"""The OpenVINO runner: the same answers as onnxruntime, nothing read from elsewhere, nothing sent or printed."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import poster_edge
from poster_edge.calib.ranges import PAIRS_FIT
from poster_edge.config import Preprocess
from poster_edge.errors import UnavailableError, UsageError
from poster_edge.export.onnx_bytes import check_self_contained, metadata
from poster_edge.optional import available
from poster_edge.runtime import choose
from poster_edge.runtime.bundle import Bundle, load_bundle, write_bundle
from poster_edge.runtime.classifier import Classifier
from poster_edge.runtime.int8_sums import sums_int8_exactly
from poster_edge.runtime.manifest import BundleError, Manifest
from poster_edge.runtime.openvino_runner import OpenVinoRunner
from poster_edge.runtime.ort_runner import OrtRunner

SIZE, CLASSES = 8, ("happy", "sad", "angry")
SAMPLE = Path(poster_edge.__file__).parent / "zoo" / "samples" / "astronaut.jpg"
PRODUCTS = ("Convolution", "Deconvolution", "FullyConnected", "MatMul")


def model(nodes: list[onnx.NodeProto], weights: dict[str, Any], *, outputs: int = len(CLASSES)) -> onnx.ModelProto:
    """A graph from ``image`` (N, 3, 8, 8) to ``logits`` (N, outputs)."""
    tensors = [numpy_helper.from_array(np.asarray(v), n) for n, v in weights.items()]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, SIZE, SIZE])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", outputs])
    graph = helper.make_graph(nodes, "tiny", [image], [logits], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def mean_graph() -> onnx.ModelProto:
    """logits = mean of each channel over the picture, times 10."""
    nodes = [
        helper.make_node("ReduceMean", ["image", "axes"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "ten"], ["logits"]),
    ]
    return model(nodes, {"axes": np.array([2, 3], np.int64), "ten": np.float32(10)})


def int8_graph(top: int = 127) -> onnx.ModelProto:
    """A convolution in Q/DQ form, whose sums reach the end of the range, and the mean over the picture."""
    nodes = [
        helper.make_node("QuantizeLinear", ["image", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["x"]),
        helper.make_node("DequantizeLinear", ["kernel", "scale", "zero"], ["w"]),
        helper.make_node("Conv", ["x", "w"], ["y"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("ReduceMean", ["y", "axes"], ["logits"], keepdims=0),
    ]
    kernel = np.random.default_rng(0).integers(top * 3 // 4, top + 1, (3, 3, 3, 3)).astype(np.int8)
    scale = np.float32(1 / 127)
    weights = {"kernel": kernel, "scale": scale, "zero": np.int8(0), "axes": np.array([2, 3], np.int64)}
    return model(nodes, weights)


def pack(folder: Path, **files: onnx.ModelProto | bytes) -> Bundle:
    """A bundle of models: ``fp32`` and so on, each a graph or the bytes of its file."""
    names = {"fp32": "model.onnx", "fp16": "model.fp16.onnx", "int8": "model.int8-inputs.onnx"}
    sources = {}
    for precision, content in files.items():
        sources[names[precision]] = folder / f"source-{names[precision]}"
        data = content if isinstance(content, bytes) else content.SerializeToString()
        sources[names[precision]].write_bytes(data)
    preprocess = Preprocess(size=SIZE, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    manifest = Manifest(model="tiny", classes=CLASSES, preprocess=preprocess, artefacts={})
    return write_bundle(folder / "bundle", manifest, sources, force=True)


@pytest.fixture(scope="module")
def crops() -> list[np.ndarray]:
    """Eight crops of the sample photo, the face among them, of several sizes."""
    photo = cv2.imread(str(SAMPLE))
    assert photo is not None
    return [np.asarray(photo[40 + 9 * i : 190 + 12 * i, 150 + 5 * i : 290 + 9 * i], np.uint8) for i in range(8)]


def bands(count: int) -> np.ndarray:
    """(count, 3, 8, 8) of values in 0 to 1, most of them close to 1."""
    rng = np.random.default_rng(count)
    return np.sqrt(np.sqrt(rng.random((count, 3, SIZE, SIZE), np.float32)))


@pytest.mark.parametrize("threads", [None, 1], ids=["threads-auto", "one-thread"])
def test_packaged_model_agrees_with_onnxruntime(crops: list[np.ndarray], threads: int | None) -> None:
    bundle = load_bundle("poster-nano")
    with (
        Classifier(bundle, runtime="onnxruntime", threads=1) as reference,
        Classifier(bundle, runtime="openvino", threads=threads) as classifier,
    ):
        assert classifier.runtime.startswith("OpenVINO 20")
        assert classifier.runtime.endswith(" (CPU, f32)")
        for count in (8, 1, 3, 8, 0):
            expected, found = reference.logits(crops[:count]), classifier.logits(crops[:count])
            assert found.shape == (count, 7)
            assert found.dtype == np.float32
            np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)
        one_by_one = np.concatenate([classifier.logits([c]) for c in crops])
        np.testing.assert_allclose(one_by_one, classifier.logits(crops), rtol=0, atol=2e-5)


def test_fp32_runs_in_f32_layer_by_layer() -> None:
    """Not in bf16, which is OpenVINO's choice on some CPUs."""
    with OpenVinoRunner(load_bundle("poster-nano"), precision="fp32") as runner:
        layers = [o.get_rt_info() for o in runner._compiled.get_runtime_model().get_ops()]
    kinds = [(i["layerType"].astype(str), i["runtimePrecision"].astype(str)) for i in layers]
    assert len([k for k in kinds if k[0] in PRODUCTS]) > 50
    assert {precision for layer, precision in kinds if layer in PRODUCTS} == {"f32"}


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_are_passed_on(tmp_path: Path, threads: int) -> None:
    with OpenVinoRunner(pack(tmp_path, fp32=mean_graph()), precision="fp32", threads=threads) as runner:
        assert runner._compiled.get_property("INFERENCE_NUM_THREADS") == threads


def test_results_are_copies_and_a_closed_runner_says_so(tmp_path: Path) -> None:
    runner = OpenVinoRunner(pack(tmp_path, fp32=mean_graph()), precision="fp32")
    feeds = [bands(4), 1 - bands(4)]
    with pytest.raises(RuntimeError, match="before the runner was entered"):
        runner.infer({"image": feeds[0]})
    with runner:
        first, second = (runner.infer({"image": f})["logits"] for f in feeds)
    for feed, found in zip(feeds, (first, second), strict=True):
        np.testing.assert_allclose(found, 10 * feed.mean(axis=(2, 3)), atol=1e-5)
    with pytest.raises(RuntimeError, match="before the runner was entered"):
        runner.infer({"image": feeds[0]})


def test_inferences_under_way_keep_their_feeds_and_their_results(tmp_path: Path) -> None:
    """Feeds are overwritten at once, a third waits for the first, results are fetched late and in any order."""
    feeds = [bands(1 + i % 3) / (1 + i) for i in range(7)]
    expected = [10 * f.mean(axis=(2, 3)) for f in feeds]
    with OpenVinoRunner(pack(tmp_path, fp32=mean_graph()), precision="fp32") as runner:
        given = []
        for feed in feeds:
            own = feed.copy()
            given.append(runner.submit({"image": own}))
            own[:] = -1
            np.testing.assert_allclose(
                runner.infer({"image": bands(2)})["logits"], 10 * bands(2).mean(axis=(2, 3)), atol=1e-5
            )
        for index in (6, 0, 3, 1, 2, 5, 4):
            np.testing.assert_allclose(given[index].result()["logits"], expected[index], atol=1e-5)
            assert given[index].result() is given[index].result()


def test_an_inference_that_waits_for_another_does_not_count_its_time() -> None:
    images = np.random.default_rng(0).normal(0, 1, (64, 3, 48, 48)).astype(np.float32)
    with OpenVinoRunner(load_bundle("poster-nano"), precision="fp32") as runner:
        runner.infer({"image": images})
        single, second = [], []
        for _ in range(5):
            alone = runner.submit({"image": images})
            alone.result()
            pair = [runner.submit({"image": images}) for _ in range(2)]
            for pending in pair:
                pending.result()
            single.append(alone.infer_ms)
            second.append(pair[1].infer_ms)
    assert 0.4 * np.median(single) < np.median(second) < 1.5 * np.median(single)


def test_a_runner_that_is_left_ends_what_is_under_way(tmp_path: Path) -> None:
    bundle = pack(tmp_path, fp32=mean_graph())
    # Again and again: what ends at the same time in two threads ends in any order.
    for _ in range(50):
        runner = OpenVinoRunner(bundle, precision="fp32")
        with runner:
            pending = runner.submit({"image": bands(4)})
    np.testing.assert_allclose(pending.result()["logits"], 10 * bands(4).mean(axis=(2, 3)), atol=1e-5)
    with pytest.raises(RuntimeError, match="before the runner was entered"):
        runner.submit({"image": bands(4)})


def test_a_runner_that_was_left_is_freed(tmp_path: Path) -> None:
    """With what it had under way: OpenVINO's objects are beyond Python's search for cycles."""
    runner = OpenVinoRunner(pack(tmp_path, fp32=mean_graph()), precision="fp32")
    with runner:
        pending = [runner.submit({"image": bands(2)}) for _ in range(3)]
        pending[-1].result()
    seen = [weakref.ref(p) for p in pending]
    del pending
    gc.collect()
    assert [p() for p in seen] == [None] * 3


def test_a_feed_that_does_not_fit_leaves_the_others_alone(tmp_path: Path) -> None:
    with OpenVinoRunner(pack(tmp_path, fp32=mean_graph()), precision="fp32") as runner:
        first = runner.submit({"image": bands(2)})
        wrong = runner.submit({"image": bands(2)[:, :, :3]})
        second, third = runner.submit({"image": bands(3)}), runner.submit({"image": bands(1)})
        with pytest.raises(RuntimeError):
            wrong.result()
        for pending, count in ((first, 2), (second, 3), (third, 1)):
            np.testing.assert_allclose(pending.result()["logits"], 10 * bands(count).mean(axis=(2, 3)), atol=1e-5)


def test_fp16_model_runs_no_less_precisely_than_it_is_stored(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["image"], ["half"], to=TensorProto.FLOAT16),
        helper.make_node("Flatten", ["half"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["product"]),
        helper.make_node("Cast", ["product"], ["logits"], to=TensorProto.FLOAT),
    ]
    weights = np.random.default_rng(1).normal(0, 0.1, (3 * SIZE * SIZE, 3)).astype(np.float16)
    bundle = pack(tmp_path, fp32=mean_graph(), fp16=model(nodes, {"weights": weights}))
    with OpenVinoRunner(bundle, precision="fp16") as runner:
        found = runner.infer({"image": bands(5)})["logits"]
        assert runner.description.endswith(("(CPU, f32)", "(CPU, f16)"))
    expected = bands(5).reshape(5, -1).astype(np.float16).astype(np.float64) @ weights.astype(np.float64)
    # bf16, with 8 bits, would be off by some 0.02.
    np.testing.assert_allclose(found, expected, rtol=0, atol=5e-3)


@pytest.mark.parametrize("vnni", [None, True, False], ids=["this-cpu", "with-vnni", "without-vnni"])
def test_int8_says_what_it_computes_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vnni: bool | None) -> None:
    exact = sums_int8_exactly() if vnni is None else vnni
    monkeypatch.setattr("poster_edge.runtime.int8_sums.sums_int8_exactly", lambda: exact)
    bundle = pack(tmp_path, fp32=mean_graph(), int8=int8_graph())
    with OpenVinoRunner(bundle, precision="int8") as runner:
        assert runner.file == "model.int8-inputs.onnx"
        kind = "(CPU, int8)" if exact else "(CPU, f32, as INT8 sums saturate without VNNI)"
        assert runner.description.endswith(kind)
        found = runner.infer({"image": bands(3)})["logits"]
    if vnni and not sums_int8_exactly():
        return  # saturated sums: what the default avoids
    with OrtRunner(bundle, precision="int8") as runner:
        np.testing.assert_allclose(found, runner.infer({"image": bands(3)})["logits"], rtol=2e-3)


def test_weights_of_7_bits_run_in_integers_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their sums fit into 16 bits: no CPU computes them wrongly, and the graph says so."""
    graph = int8_graph(top=63)
    helper.set_model_props(graph, {PAIRS_FIT: "true"})
    bundle = pack(tmp_path, fp32=mean_graph(), int8=graph)
    with OpenVinoRunner(bundle, precision="int8") as runner:
        assert runner.description.endswith("(CPU, int8)")
        found = runner.infer({"image": bands(3)})["logits"]
    with OrtRunner(bundle, precision="int8") as runner:
        np.testing.assert_allclose(found, runner.infer({"image": bands(3)})["logits"], rtol=2e-3)
    monkeypatch.setattr("poster_edge.runtime.int8_sums.sums_int8_exactly", lambda: False)
    with Classifier(bundle, precision="int8") as classifier:
        assert classifier.runtime.startswith("OpenVINO")


def test_metadata_is_read_from_the_file() -> None:
    graph = mean_graph()
    assert metadata(graph.SerializeToString()) == {}
    helper.set_model_props(graph, {"a": "1", "b": ""})
    assert metadata(graph.SerializeToString()) == {"a": "1", "b": ""}
    with pytest.raises(ValueError, match="no ONNX graph"):
        metadata(graph.SerializeToString()[:-1])


def test_graph_that_does_not_fit_its_manifest(tmp_path: Path) -> None:
    bundle = pack(tmp_path, fp32=mean_graph())
    others = {
        "classes": replace(bundle.manifest, classes=("a", "b")),
        "size": replace(bundle.manifest, preprocess=replace(bundle.manifest.preprocess, size=16)),
        "input": replace(bundle.manifest, input_name="picture"),
        "output": replace(bundle.manifest, output_name="scores"),
    }
    for manifest in others.values():
        other = Bundle(bundle.folder, manifest)
        messages = []
        for runner in (OpenVinoRunner(other, precision="fp32"), OrtRunner(other, precision="fp32")):
            with pytest.raises(BundleError, match="do not fit the manifest") as caught, runner:
                pass
            messages.append(str(caught.value).replace("'batch'", "'?'"))
        assert messages[0] == messages[1]


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_output_without_a_batch_is_refused(tmp_path: Path, runtime: str) -> None:
    """A scalar has no last entry to compare."""
    nodes = [helper.make_node("ReduceMean", ["image"], ["logits"], keepdims=0)]
    proto = model(nodes, {})
    del proto.graph.output[0].type.tensor_type.shape.dim[:]
    with (
        pytest.raises(BundleError, match="do not fit the manifest"),
        Classifier(pack(tmp_path, fp32=proto), runtime=runtime),
    ):
        pass


def external(proto: onnx.ModelProto, location: str, **more: str) -> onnx.ModelProto:
    """The graph with its last weight moved out."""
    tensor = proto.graph.initializer[-1]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **more}.items():
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    return proto


@pytest.mark.parametrize("where", ["beside", "absolute", "memory"])
def test_external_data_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """OpenVINO alone would take the first two and crash on an address of the third."""
    secret = tmp_path / "secret.bin"
    secret.write_bytes(np.float32(10).tobytes())
    monkeypatch.chdir(tmp_path)
    location = {"beside": "secret.bin", "absolute": str(secret), "memory": "*/_ORT_MEM_ADDR_/*"}[where]
    bundle = pack(tmp_path, fp32=external(mean_graph(), location, offset="0", length="4"))
    with (
        pytest.raises(BundleError, match=r"model\.onnx: OpenVINO cannot load it: it asks for data outside the file"),
        Classifier(bundle, runtime="openvino"),
    ):
        pass


def hidden(place: str) -> onnx.ModelProto:
    """A graph with external data where a tensor can hide."""
    proto = mean_graph()
    tensor = external(mean_graph(), "/etc/passwd").graph.initializer[-1]
    node = proto.graph.node[0]
    if place == "constant":
        node.attribute.append(helper.make_attribute("value", tensor))
    elif place == "tensor list":
        node.attribute.append(helper.make_attribute("values", [tensor]))
    elif place == "subgraph":
        inner = helper.make_graph([], "inner", [], [], [tensor])
        outer = helper.make_graph([helper.make_node("If", ["c"], ["d"], then_branch=inner)], "outer", [], [])
        node.attribute.append(helper.make_attribute("body", outer))
    elif place == "function":
        inside = helper.make_node("Constant", [], ["y"], value=tensor)
        proto.functions.append(helper.make_function("d", "f", [], ["y"], [inside], [helper.make_opsetid("", 20)]))
    elif place == "sparse":
        proto.graph.sparse_initializer.add().values.CopyFrom(tensor)
    elif place == "training":
        proto.training_info.add().initialization.initializer.append(tensor)
    return proto


@pytest.mark.parametrize("place", ["constant", "tensor list", "subgraph", "function", "sparse", "training"])
def test_external_data_is_found_everywhere(place: str) -> None:
    with pytest.raises(ValueError, match="outside the file"):
        check_self_contained(hidden(place).SerializeToString())
    check_self_contained(mean_graph().SerializeToString())


def test_external_data_in_unusual_bytes() -> None:
    """Encodings that no writer uses and every parser takes: long numbers, and keys that get cut to 32 bits."""
    graph = b"\x3a"
    usual = b"\x2a\x02\x70\x01"
    long = b"\x2a\x83\x00\x70\x81\x00"
    cut = b"\x2a\x06\xf0\x80\x80\x80\x10\x01"
    group = b"\x2b\x70\x01\x2c"
    for inner in (usual, long, cut, group):
        with pytest.raises(ValueError, match=r"outside the file|no ONNX graph"):
            check_self_contained(graph + bytes([len(inner)]) + inner)
    stated_default = b"\x2a\x02\x70\x00"
    check_self_contained(graph + bytes([len(stated_default)]) + stated_default)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not onnx",
        b"\x08\x09" * 50,
        b"\x3a\xff\xff\xff\xff\x0f",
        b"/etc/hostname",
        b'<?xml version="1.0"?><net name="x" version="11"><layers></layers><edges></edges></net>',
        mean_graph().SerializeToString()[:-20],
        model([helper.make_node("Frobnicate", ["image"], ["logits"])], {}).SerializeToString(),
        model([helper.make_node("Relu", ["nowhere"], ["logits"])], {}).SerializeToString(),
        model([helper.make_node("Add", ["image", "w"], ["logits"])], {"w": np.zeros((5, 7), "f")}).SerializeToString(),
    ],
    ids=["empty", "text", "junk", "length", "path", "xml", "cut", "operator", "dangling", "shapes"],
)
def test_broken_graphs_are_one_clear_line(tmp_path: Path, capfd: pytest.CaptureFixture[str], content: bytes) -> None:
    bundle = pack(tmp_path, fp32=content)
    with (
        pytest.raises(BundleError, match=r"model\.onnx: OpenVINO cannot load it: \w") as caught,
        Classifier(bundle, runtime="openvino"),
    ):
        pass
    assert "\n" not in str(caught.value)
    assert "Exception from" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_changed_bytes_never_reach_openvino(tmp_path: Path) -> None:
    bundle = pack(tmp_path, fp32=mean_graph())
    path = bundle.folder / "model.onnx"
    data = bytearray(path.read_bytes())
    data[60] ^= 1
    path.write_bytes(data)
    with pytest.raises(BundleError, match="SHA-256"), Classifier(bundle, runtime="openvino"):
        pass


def test_nothing_is_loaded_before_it_is_entered(tmp_path: Path) -> None:
    bundle = pack(tmp_path, fp32=b"not onnx")
    runner = OpenVinoRunner(bundle, precision="fp32")
    assert runner.file == "model.onnx"
    assert "CPU" not in runner.description


def test_a_device_is_served_or_refused(tmp_path: Path) -> None:
    bundle = pack(tmp_path, fp32=mean_graph())
    OpenVinoRunner(bundle, precision="fp32", device="cpu")
    with pytest.raises(UnavailableError, match="--device cuda:0: OpenVINO runs on the CPU; use --runtime onnxruntime"):
        Classifier(bundle, runtime="openvino", device="cuda:0")
    with pytest.raises(UsageError, match="expected auto, cpu or cuda:N"):
        Classifier(bundle, runtime="openvino", device="tpu")
    with pytest.raises(BundleError, match="no int8 model, it has fp32"):
        Classifier(bundle, runtime="openvino", precision="int8")


def missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)


def broken(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """An installed package that cannot be loaded comes first on the path."""
    package = folder / "site" / "openvino"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('libtbb.so.12: cannot open shared object file')\n")
    monkeypatch.delitem(sys.modules, "openvino", raising=False)
    monkeypatch.syspath_prepend(package.parent)


class TestAutomaticChoice:
    @pytest.fixture
    def bundle(self, tmp_path: Path) -> Bundle:
        return pack(tmp_path, fp32=mean_graph(), int8=int8_graph())

    def chosen(self, bundle: Bundle, **options: str) -> str:
        self.told: list[str] = []
        return Classifier(bundle, notify=self.told.append, **options).runtime.split()[0]

    @pytest.mark.parametrize("device", ["auto", "cpu"])
    def test_openvino_where_it_is_installed(self, bundle: Bundle, device: str) -> None:
        assert self.chosen(bundle, device=device) == "OpenVINO"
        assert self.told == []

    def test_onnxruntime_elsewhere(self, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
        missing(monkeypatch)
        assert self.chosen(bundle) == "onnxruntime"
        assert self.told == [], "an extra that was never installed is no news"
        with pytest.raises(UnavailableError, match=r"openvino is needed .* not installed: .*'poster-edge\[openvino\]'"):
            self.chosen(bundle, runtime="openvino")

    def test_a_folder_of_that_name_is_no_package(
        self, tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "work" / "openvino").mkdir(parents=True)
        monkeypatch.delitem(sys.modules, "openvino", raising=False)
        monkeypatch.setattr(sys, "path", [str(tmp_path / "work")])
        assert not available("openvino")
        with pytest.raises(UnavailableError, match="not installed"):
            self.chosen(bundle, runtime="openvino")

    def test_a_broken_openvino_is_named_and_passed_over(
        self, tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        broken(monkeypatch, tmp_path)
        assert self.chosen(bundle) == "onnxruntime"
        (line,) = self.told
        assert "cannot be loaded (libtbb.so.12" in line
        assert "onnxruntime runs the model instead" in line
        with pytest.raises(UnavailableError, match="libtbb"):
            self.chosen(bundle, runtime="openvino")

    def test_a_gpu_that_onnxruntime_can_use_comes_first(self, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(choose, "_onnxruntime_has_cuda", lambda: True)
        assert self.chosen(bundle) == "onnxruntime"
        assert self.chosen(bundle, device="cpu") == "OpenVINO"

    def test_cuda_by_name_is_not_openvinos(self, bundle: Bundle) -> None:
        with pytest.raises(UnavailableError, match="no CUDA provider"):
            self.chosen(bundle, device="cuda:0")

    @pytest.mark.parametrize(("exact", "name"), [(True, "OpenVINO"), (False, "onnxruntime")])
    def test_int8_goes_where_it_is_exact(
        self, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, exact: bool, name: str
    ) -> None:
        monkeypatch.setattr("poster_edge.runtime.int8_sums.sums_int8_exactly", lambda: exact)
        assert self.chosen(bundle, precision="int8") == name
        assert self.chosen(bundle, precision="fp32") == "OpenVINO"

    def test_cuda_is_found_without_importing_onnxruntime(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert not choose._onnxruntime_has_cuda()
        capi = tmp_path / "onnxruntime" / "capi"
        capi.mkdir(parents=True)
        (tmp_path / "onnxruntime" / "__init__.py").write_text("raise ImportError('must not be imported')\n")
        monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
        monkeypatch.syspath_prepend(tmp_path)
        assert not choose._onnxruntime_has_cuda()
        (capi / "libonnxruntime_providers_cuda.so").touch()
        assert choose._onnxruntime_has_cuda()


def test_openvino_is_loaded_without_its_telemetry(tmp_path: Path) -> None:
    """No process, no connection, no file in the home folder; the package itself stays whole."""
    program = """
import atexit, sys
seen = []
sys.addaudithook(lambda event, _: seen.append(event))
from poster_edge.runtime.openvino_runner import load_openvino
openvino = load_openvino()
assert not [m for m in sys.modules if m.startswith("openvino_telemetry")]
assert openvino.convert_model
bad = ("socket.", "subprocess.", "os.fork", "os.posix_spawn")
# Telemetry is sent from threads; they have ended by then.
atexit.register(lambda: print(sorted({e for e in seen if e.startswith(bad)})))
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(poster_edge.__file__).parents[1],
        env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "[]", "")
    assert list(tmp_path.iterdir()) == []
