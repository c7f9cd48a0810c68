"""The Triton repository: read by Triton's own protobuf, held against the ONNX files, and executed step by step."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from google.protobuf import text_format
from onnx import helper

from poster_edge.config import Preprocess
from poster_edge.data.preprocess import resize_square, to_input
from poster_edge.errors import PosterEdgeError, UsageError
from poster_edge.export.pbtxt import loads
from poster_edge.export.triton_check import validate_repository
from poster_edge.export.triton_config import signature
from poster_edge.export.triton_graphs import preprocess_graph
from poster_edge.export.triton_options import TritonOptions
from poster_edge.export.triton_repository import Served, write_repository
from poster_edge.runtime.bundle import load_bundle
from poster_edge.runtime.classifier import Classifier
from poster_edge.vision.samples import sample_crops


@pytest.fixture(scope="module")
def model_config() -> Any:
    """Triton's protobuf module; the file alone, as the package around it wants grpc and an older protobuf."""
    spec = importlib.util.find_spec("tritonclient")
    if spec is None or not spec.submodule_search_locations:
        if os.environ.get("POSTER_EDGE_REQUIRE_TRITON"):
            pytest.fail("POSTER_EDGE_REQUIRE_TRITON is set, but tritonclient is not installed")
        pytest.skip("needs tritonclient: make test installs it")
    path = Path(next(iter(spec.submodule_search_locations))) / "grpc" / "model_config_pb2.py"
    own = importlib.util.spec_from_file_location("model_config_pb2", path)
    assert own is not None
    assert own.loader is not None
    module = importlib.util.module_from_spec(own)
    own.loader.exec_module(module)
    return module


def served(**changes: Any) -> Served:
    """The packaged model."""
    bundle = load_bundle("poster-nano")
    manifest = bundle.manifest
    given = Served(
        name="nano",
        graph=bundle.read("model.onnx"),
        input_name=manifest.input_name,
        output_name=manifest.output_name,
        classes=manifest.classes,
        preprocess=manifest.preprocess,
        temperature=manifest.temperature,
        precision="fp32",
    )
    return replace(given, **changes)


def linear(size: int, classes: int, *, batch: int | str = "N") -> bytes:
    """A small graph from ``image`` to ``logits``."""
    weights = np.random.default_rng(0).normal(0, 0.1, (3 * size * size, classes)).astype(np.float32)
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
    ]
    image = helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, [batch, 3, size, size])
    logits = helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, [batch, classes])
    graph = helper.make_graph(nodes, "tiny", [image], [logits], [onnx.numpy_helper.from_array(weights, "weights")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()


def session(data: bytes | Path) -> ort.InferenceSession:
    return ort.InferenceSession(
        data if isinstance(data, bytes) else data.read_bytes(), providers=["CPUExecutionProvider"]
    )


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("triton") / "repository"
    assert write_repository(folder, served(), TritonOptions(max_batch=16, threads=2, instances=2)) == []
    return folder


def parse(model_config: Any, repository: Path, name: str) -> Any:
    text = (repository / name / "config.pbtxt").read_text()
    return text_format.Parse(text, model_config.ModelConfig())


def test_tree(repository: Path) -> None:
    files = sorted(str(p.relative_to(repository)) for p in repository.rglob("*") if p.is_file())
    steps = [f"nano-{s}/{f}" for s in ("postprocess", "preprocess") for f in ("1/model.onnx", "config.pbtxt")]
    labels = [f"{n}/labels.txt" for n in ("nano", "nano-faces", "nano-postprocess")]
    assert files == sorted(
        ["README.md", "nano/1/model.onnx", "nano/config.pbtxt", "nano-faces/config.pbtxt", *steps, *labels]
    )
    assert (repository / "nano-faces/1").is_dir()
    assert (repository / "nano/labels.txt").read_text().split() == list(served().classes)
    assert (repository / "nano/1/model.onnx").read_bytes() == served().graph


def test_triton_reads_every_config_and_finds_the_files_shapes(model_config: Any, repository: Path) -> None:
    for name in ("nano", "nano-preprocess", "nano-postprocess"):
        config = parse(model_config, repository, name)
        assert (config.name, config.backend, config.platform) == (name, "onnxruntime", "onnxruntime_onnx")
        own = session(repository / name / "1" / config.default_model_filename)
        types = {"TYPE_FP32": "tensor(float)", "TYPE_UINT8": "tensor(uint8)"}
        for said, real in ((config.input, own.get_inputs()), (config.output, own.get_outputs())):
            told = {t.name: (types[model_config.DataType.Name(t.data_type)], list(t.dims)) for t in said}
            assert told == {r.name: (r.type, r.shape[1:]) for r in real}
            assert all(isinstance(r.shape[0], str) for r in real)


def test_batching_instances_and_warm_up(model_config: Any, repository: Path) -> None:
    config = parse(model_config, repository, "nano")
    assert config.max_batch_size == 16
    assert list(config.dynamic_batching.preferred_batch_size) == [4, 8, 16]
    assert config.dynamic_batching.max_queue_delay_microseconds == 500
    (group,) = config.instance_group
    assert (group.count, model_config.ModelInstanceGroup.Kind.Name(group.kind)) == (2, "KIND_CPU")
    assert config.parameters["intra_op_thread_count"].string_value == "2"
    assert [w.batch_size for w in config.model_warmup] == [1, 16]
    assert all(list(w.inputs["image"].dims) == [3, 48, 48] for w in config.model_warmup)
    assert config.version_policy.latest.num_versions == 1
    assert config.output[0].label_filename == "labels.txt"
    assert not config.HasField("optimization")


def test_our_reader_agrees_with_protobuf(model_config: Any, repository: Path) -> None:
    for path in repository.glob("*/config.pbtxt"):
        theirs = text_format.Parse(path.read_text(), model_config.ModelConfig())
        again = text_format.MessageToString(theirs)
        assert loads(again) == loads(path.read_text()), path


def test_a_batch_of_one_is_not_queued(model_config: Any, tmp_path: Path) -> None:
    write_repository(tmp_path / "r", served(), TritonOptions(max_batch=1, ensemble=False))
    config = parse(model_config, tmp_path / "r", "nano")
    assert not config.HasField("dynamic_batching")
    assert [w.batch_size for w in config.model_warmup] == [1]
    assert [p.name for p in (tmp_path / "r").iterdir() if p.is_dir()] == ["nano"]


def test_gpu_with_the_accelerator(model_config: Any, tmp_path: Path) -> None:
    options = TritonOptions(max_batch=32, kind="gpu", accelerator=True, preferred=(8, 32), ensemble=True)
    write_repository(tmp_path / "r", served(precision="int8"), options)
    config = parse(model_config, tmp_path / "r", "nano")
    assert model_config.ModelInstanceGroup.Kind.Name(config.instance_group[0].kind) == "KIND_GPU"
    (accelerator,) = config.optimization.execution_accelerators.gpu_execution_accelerator
    assert accelerator.name == "tensorrt"
    assert dict(accelerator.parameters) == {
        "trt_profile_min_shapes": "image:1x3x48x48",
        "trt_profile_opt_shapes": "image:8x3x48x48",
        "trt_profile_max_shapes": "image:32x3x48x48",
    }
    for step in ("nano-preprocess", "nano-postprocess"):
        group = parse(model_config, tmp_path / "r", step).instance_group[0]
        assert model_config.ModelInstanceGroup.Kind.Name(group.kind) == "KIND_CPU"


def test_a_plan_is_built_on_the_server(model_config: Any, tmp_path: Path) -> None:
    notes = write_repository(tmp_path / "r", served(), TritonOptions(kind="gpu", backend="tensorrt", max_batch=8))
    assert notes == ["nano/1/model.plan is to be built on the server"]
    config = parse(model_config, tmp_path / "r", "nano")
    assert (config.platform, config.backend) == ("tensorrt_plan", "tensorrt")
    assert config.default_model_filename == "model.plan"
    text = (tmp_path / "r/README.md").read_text()
    assert "trtexec --onnx=nano/1/model.onnx --saveEngine=nano/1/model.plan --minShapes=image:1x3x48x48" in text
    assert "--maxShapes=image:8x3x48x48 --stronglyTyped" in text
    (tmp_path / "r/nano/1/model.plan").write_bytes(b"built there")
    assert validate_repository(tmp_path / "r") == []


@pytest.mark.parametrize(
    "options",
    [
        {"kind": "cpu", "backend": "tensorrt"},
        {"kind": "cpu", "accelerator": True},
        {"kind": "gpu", "backend": "tensorrt", "accelerator": True},
        {"kind": "gpu", "threads": 2},
        {"max_batch": 8, "preferred": (16,)},
        {"max_batch": 0},
        {"backend": "pytorch"},
    ],
    ids=str,
)
def test_options_that_do_not_go_together(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        TritonOptions(**options)


def test_int8_on_cuda_kernels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="computes INT8 graphs in float"):
        write_repository(tmp_path / "r", served(precision="int8"), TritonOptions(kind="gpu"))
    assert not list(tmp_path.iterdir())


def chain(repository: Path, name: str, crops: np.ndarray) -> dict[str, np.ndarray]:
    """Execute an ensemble as its configuration says: tensors by name, each step's file in onnxruntime."""
    tensors = {"faces": crops}
    for step in loads((repository / name / "config.pbtxt").read_text())["ensemble_scheduling"][0]["step"]:
        own = session(repository / step["model_name"][0] / "1" / "model.onnx")
        feed = {e["key"][0]: tensors[e["value"][0]] for e in step["input_map"]}
        made = dict(zip([o.name for o in own.get_outputs()], own.run(None, feed), strict=True))
        tensors |= {e["value"][0]: made[e["key"][0]] for e in step["output_map"]}
    return tensors


def test_the_ensemble_gives_the_classifiers_probabilities(repository: Path) -> None:
    bundle = load_bundle("poster-nano")
    faces = sample_crops(bundle.manifest.preprocess)
    assert len(faces) >= 50
    crops = np.stack([resize_square(f, 48, "linear") for f in faces])
    with Classifier(bundle, runtime="onnxruntime", threads=1) as classify:
        expected = classify(faces)
    made = chain(repository, "nano-faces", crops)
    np.testing.assert_array_equal(made["image"], to_input(faces, bundle.manifest.preprocess))
    assert made["probabilities"].dtype == np.float32
    np.testing.assert_allclose(made["probabilities"], expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(made["probabilities"].sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(chain(repository, "nano-faces", crops[:1])["probabilities"], expected[:1], atol=1e-6)


@pytest.mark.parametrize("colour", ["gray", "rgb", "bgr"])
def test_preprocessing_is_exact(colour: str) -> None:
    settings = Preprocess(size=40, colour=colour, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    noise = np.random.default_rng(1).integers(0, 256, (7, 40, 40, 3), np.uint8)
    graph = session(preprocess_graph(settings, "image").SerializeToString())
    for count in (7, 1):
        (found,) = graph.run(None, {"faces": noise[:count]})
        np.testing.assert_array_equal(found, to_input(list(noise[:count]), settings))


def test_gray_is_opencvs_on_a_grid_of_colours() -> None:
    """52 values of each channel, both ends among them: 139,264 colours."""
    steps = np.array(sorted({*range(0, 256, 5), 1, 254}), np.uint8)[:52]
    colours = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(1, -1, 3)
    assert colours.shape[1] == 52**3
    gray = cv2.cvtColor(colours, cv2.COLOR_BGR2GRAY)[0].astype(np.float32)
    settings = Preprocess(size=64, colour="gray", mean=(0, 0, 0), std=(1, 1, 1))
    # What fills no whole 64 x 64 picture is left out.
    count = 52**3 // 64**2
    crops = colours[0, : count * 4096].reshape(count, 64, 64, 3)
    (found,) = session(preprocess_graph(settings, "image").SerializeToString()).run(None, {"faces": crops})
    expected = gray[: count * 4096].reshape(count, 64, 64) * np.float32(1 / 255)
    for channel in range(3):
        np.testing.assert_array_equal(found[:, channel], expected)


def test_other_class_orders_and_temperatures(tmp_path: Path) -> None:
    classes = ("zeta", "alpha", "mid")
    settings = Preprocess(size=16, colour="rgb")
    given = served(graph=linear(16, 3), classes=classes, preprocess=settings, temperature=2.5)
    write_repository(tmp_path / "r", given, TritonOptions(max_batch=4))
    assert (tmp_path / "r/nano-faces/labels.txt").read_text() == "zeta\nalpha\nmid\n"
    crops = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), np.uint8)
    made = chain(tmp_path / "r", "nano-faces", crops)
    scaled = made["logits"].astype(np.float64) / 2.5
    expected = np.exp(scaled) / np.exp(scaled).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(made["probabilities"], expected, rtol=0, atol=1e-7)


def break_config(folder: Path, name: str, old: str, new: str) -> None:
    path = folder / name / "config.pbtxt"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("name", "old", "new", "words"),
    [
        ("nano", 'name: "image"', 'name: "picture"', "inputs picture"),
        ("nano", "TYPE_FP32", "TYPE_FP16", "TYPE_FP16"),
        ("nano", "dims: [3, 48, 48]", "dims: [3, 48, 47]", "inputs image TYPE_FP32 [3, 48, 47]"),
        ("nano", "dims: [7]", "dims: [8]", "labels.txt names 7 classes, 'logits' has 8"),
        ("nano", 'name: "nano"', 'name: "micro"', "named 'micro'"),
        ("nano", "[4, 8, 16]", "[4, 8, 32]", "preferred batch sizes [32]"),
        ("nano", "batch_size: 16\n  inputs", "batch_size: 17\n  inputs", "warm-up 'batch-16'"),
        ("nano", 'backend: "onnxruntime"', 'backend: "tensorrt"', "does not go with backend"),
        ("nano", "max_batch_size: 16", "max_batch_size: 8", "takes smaller batches"),
        ("nano", 'label_filename: "labels.txt"', 'label_filename: "names.txt"', "names.txt cannot be read"),
        ("nano-faces", 'value: "image"', 'value: "picture"', "'image' is not there"),
        ("nano-faces", 'model_name: "nano"', 'model_name: "micro"', "step 'micro' is not in the repository"),
        ("nano-faces", 'key: "logits"', 'key: "scores"', "does not give ['scores']"),
        ("nano-faces", "dims: [48, 48, 3]", "dims: [224, 224, 3]", "does not fit 'faces'"),
        ("nano-faces", 'name: "probabilities"', 'name: "shares"', "no step gives output 'shares'"),
        ("nano-faces", "input_map {", "input_map [", "config.pbtxt"),
    ],
)  # fmt: skip
def test_a_repository_that_does_not_fit_its_files(
    repository: Path, tmp_path: Path, name: str, old: str, new: str, words: str
) -> None:
    copy = shutil.copytree(repository, tmp_path / "copy")
    assert validate_repository(copy) == []
    break_config(copy, name, old, new)
    with pytest.raises(PosterEdgeError, match=re.escape(words)):
        validate_repository(copy)


def test_a_model_file_that_is_damaged(repository: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(repository, tmp_path / "copy")
    (copy / "nano/1/model.onnx").write_bytes(b"\x08\x0a\xff\xff")
    with pytest.raises(PosterEdgeError, match="model.onnx cannot be read"):
        validate_repository(copy)
    with pytest.raises(PosterEdgeError, match="holds no model"):
        validate_repository(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"graph": b"no graph"}, "not an ONNX file|no type or shape|the graph has"),
        ({"input_name": "picture"}, "its description says"),
        ({"classes": ("a", "b")}, "its description says"),
        ({"graph": linear(48, 7, batch=1)}, "takes batches of .1. only"),
        ({"name": "../up"}, "cannot name a model"),
    ],
    ids=["bytes", "input", "classes", "fixed-batch", "name"],
)
def test_nothing_is_left_of_what_does_not_fit(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(PosterEdgeError, match=words):
        write_repository(tmp_path / "r", served(**changes), TritonOptions())
    assert not list(tmp_path.iterdir())


def test_targets(tmp_path: Path) -> None:
    small = served(graph=linear(16, 7), preprocess=Preprocess(size=16))
    target = tmp_path / "r"
    write_repository(target, small, TritonOptions())
    with pytest.raises(UsageError, match="pass --force"):
        write_repository(target, small, TritonOptions())
    write_repository(target, replace(small, name="other"), TritonOptions(ensemble=False), force=True)
    assert sorted(p.name for p in target.iterdir()) == ["README.md", "other"]
    assert [p.name for p in tmp_path.iterdir()] == ["r"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match="no repository of poster-edge's making"):
        write_repository(tmp_path / "mine", small, TritonOptions(), force=True)
    assert (tmp_path / "mine/thesis.txt").read_text() == "years of work"


def test_signature_leaves_out_initialisers() -> None:
    model = onnx.load_from_string(linear(16, 7))
    model.graph.input.append(helper.make_tensor_value_info("weights", onnx.TensorProto.FLOAT, [768, 7]))
    assert [t.name for t in signature(model).inputs] == ["image"]
