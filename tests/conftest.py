"""Fixtures for all tests: the shared data beside the checkout, where there is any."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from poster_edge.export.tensorrt_api import RTX, TensorRt, installed, load

CLASSES = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")


#: Files that take longest and would come last: processes that share the files end together when these begin early.
_LONG = ("tests/train/test_run.py", "tests/train/test_distributed.py", "tests/train/test_recipes_run.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, all else in its order."""
    items.sort(key=lambda item: not item.nodeid.startswith(_LONG))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of data that is never committed; tests that need it skip where it is absent."""
    folder = Path(__file__).parents[2] / "shared"
    if not folder.is_dir():
        if os.environ.get("POSTER_EDGE_REQUIRE_SHARED"):
            pytest.fail("POSTER_EDGE_REQUIRE_SHARED is set, but ../shared is not there")
        pytest.skip("needs ../shared")
    return folder


@pytest.fixture(scope="session")
def rtx() -> TensorRt:
    """TensorRT-RTX with NVIDIA's own builder; no GPU is needed to build."""
    if not installed(RTX):
        if os.environ.get("POSTER_EDGE_REQUIRE_RTX"):
            pytest.fail("POSTER_EDGE_REQUIRE_RTX is set, but TensorRT-RTX's builder is not installed")
        pytest.skip("needs TensorRT-RTX's builder: make rtx")
    return load(RTX)


@pytest.fixture(scope="session")
def media(shared: Path) -> Path:
    """Photos and clips with faces; see the shared folder's own notes."""
    return shared / "media"


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real bundle around a linear layer with fixed weights: quick, and different for each face."""
    onnx = pytest.importorskip("onnx")
    from poster_edge.config import Preprocess
    from poster_edge.runtime.bundle import write_bundle
    from poster_edge.runtime.manifest import Manifest

    size, helper = 16, onnx.helper
    weights = np.random.default_rng(0).normal(0, 0.1, (3 * size * size, len(CLASSES))).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["image"], ["flat"]),
            helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
        ],
        "tiny",
        [helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, ["N", 3, size, size])],
        [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["N", len(CLASSES)])],
        [onnx.numpy_helper.from_array(weights, "weights")],
    )
    folder = tmp_path_factory.mktemp("tiny")
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, str(folder / "model.onnx"))
    manifest = Manifest(
        model="tiny",
        classes=CLASSES,
        preprocess=Preprocess(size=size, colour="gray", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), margin=0.1),
        artefacts={},
        source="fixed weights of a test",
    )
    return write_bundle(folder / "bundle", manifest, {"model.onnx": folder / "model.onnx"}).folder
