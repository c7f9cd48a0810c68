"""Compiled kernels are kept beside the checkout's other build results, by the hash of their source."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from poster_edge.export.cross_fusion_op import DOMAIN, OP
from poster_edge.export.plugin_graph import plugin_graph
from poster_edge.files import write_atomic
from poster_edge.kernels.pack import PackedDepth, pack
from poster_edge.models.checkpoint import load_model
from poster_edge.models.fused import fusion_shape
from poster_edge.models.poster import Poster
from poster_edge.runtime.bundle import WEIGHTS_FILE, load_bundle

ROOT = Path(__file__).parents[2]
Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def kernel_cache() -> Path:
    """A cache folder that outlives the run."""
    return ROOT / "build" / "kernels"


@pytest.fixture(scope="session")
def nano() -> Poster:
    model, _ = load_model(load_bundle("poster-nano").folder / WEIGHTS_FILE)
    assert isinstance(model, Poster)
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def depths(nano: Poster) -> list[PackedDepth]:
    fusion = nano.pyramid_fuse
    shape = fusion_shape(fusion)
    return [pack(s.state_dict(), heads=shape.heads, shape=shape) for s in fusion.blocks]


@pytest.fixture(scope="session")
def fused(nano: Poster) -> onnx.ModelProto:
    """Tokens cut from the picture, poster-nano's depths as nodes, and a classifier.

    ``tests/export`` rewrites the real export; what the definition holds is of no interest here.
    """
    make, tensor = onnx.helper.make_node, onnx.numpy_helper.from_array
    values = {
        "rows": np.array([0, 54, 128], np.int64),
        "begin": np.array([0], np.int64),
        "twenty": np.array([20], np.int64),
        "tokens": np.array([1], np.int64),
        "columns": np.array([2], np.int64),
        "half": np.array([64], np.int64),
        "quarter": np.array([32], np.int64),
        "first": np.array(0, np.int64),
        "scale": np.ones(128, np.float32),
        "classes": np.eye(128, 7, dtype=np.float32),
    }
    nodes = [
        make("Reshape", ["image", "rows"], ["cut"], name="reshape"),
        make("Slice", ["cut", "begin", "twenty", "tokens"], ["more"], name="slice"),
        make("Concat", ["cut", "more"], ["l0"], name="concat", axis=1),
        make("Slice", ["l0", "begin", "half", "columns"], ["m0"], name="slice_m"),
        make("Slice", ["l0", "begin", "quarter", "columns"], ["s0"], name="slice_s"),
    ]
    names: list[str] = []
    for i, stage in enumerate(nano.pyramid_fuse.blocks):
        state = {k: v.numpy() for k, v in stage.state_dict().items()}
        linear = {k for k, v in state.items() if v.ndim == 2}
        names = [f"{k}_t" if k in linear else k for k in state]
        values |= {f"{i}.{k}": v.T if k in linear else v for k, v in state.items()}
        inputs, outputs = ([f"{level}{j}" for level in "lms"] for j in (i, i + 1))
        weights = [f"{i}.{k}" for k in state]
        nodes.append(make(OP, [*inputs, *weights], outputs, name=f"cross_fusion_{i}", domain=DOMAIN, heads=2))
    nodes += [
        make("LayerNormalization", [outputs[0], "scale"], ["normed"], name="norm", axis=-1),
        make("Gather", ["normed", "first"], ["token"], name="gather", axis=1),
        make("MatMul", ["token", "classes"], ["logits"], name="head"),
    ]
    levels = [f"{kind}_{level}" for kind in ("level", "out") for level in "lms"]
    body = [make("Identity", [a], [b]) for a, b in zip(levels[:3], levels[3:], strict=True)]
    opsets = [onnx.helper.make_opsetid("", 20), onnx.helper.make_opsetid(DOMAIN, 1)]
    function = onnx.helper.make_function(DOMAIN, OP, [*levels[:3], *names], levels[3:], body, opsets[:1], ["heads"])
    graph = onnx.helper.make_graph(
        nodes,
        "tokens",
        [onnx.helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, ["N", 3, 48, 48])],
        [onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["N", 7])],
        [tensor(np.array(v, order="C"), k) for k, v in values.items()],
    )
    return onnx.helper.make_model(graph, functions=[function], opset_imports=opsets, ir_version=9)


@pytest.fixture(scope="session")
def graph(fused: onnx.ModelProto) -> onnx.ModelProto:
    return plugin_graph(fused)


@pytest.fixture(scope="session")
def run() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a command that must succeed, such as one of ours; triton is no interpreter in it."""

    def command(*words: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        kept = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
        done = subprocess.run(
            [str(w) for w in words], capture_output=True, text=True, check=False, cwd=ROOT, env=kept | environment
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    return command


@pytest.fixture(scope="session")
def cubins(run: Command, kernel_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """poster-nano's kernels for Jetson Orin, and the same files once more as if they were for sm_86."""
    folder = tmp_path_factory.mktemp("cubins") / "kernels"
    words = [sys.executable, "-m", "poster_edge", "kernels", "build", "--arch", "sm_87", "--model", "poster-nano"]
    run(*words, "-o", folder, POSTER_EDGE_CACHE=str(kernel_cache))
    manifest = json.loads((folder / "manifest.json").read_text())
    for entry in list(manifest["kernels"]):
        data = (folder / entry["file"]).read_bytes() + b"86"
        name = entry["file"].replace("sm_87", "sm_86")
        write_atomic(folder / name, data)
        digest = hashlib.sha256(data).hexdigest()
        manifest["kernels"].append({**entry, "arch": 86, "file": name, "sha256": digest, "bytes": len(data)})
    write_atomic(folder / "manifest.json", json.dumps(manifest))
    return folder


@pytest.fixture(scope="session")
def source(run: Command, cubins: Path) -> Path:
    """The plugin's source, by the command line."""
    folder = cubins.parent / "source"
    done = run(sys.executable, "-m", "poster_edge", "kernels", "plugin", cubins, "-o", folder)
    assert f"{folder}: for sm_86, sm_87" in done.stderr
    return folder


@pytest.fixture(scope="session")
def library(run: Command, source: Path) -> Path:
    """The plugin as CMake builds it, with a stand-in for TensorRT's header."""
    if shutil.which("cmake") is None:
        pytest.skip("needs cmake")
    out, stand_in = source.parent / "build", Path(__file__).parent / "tensorrt_stand_in"
    run("cmake", "-S", source, "-B", out, f"-DTENSORRT_INCLUDE={stand_in}", f"-DCUDA_INCLUDE={stand_in}")
    run("cmake", "--build", out)
    return out / "libposter_edge_plugin.so"
