"""The plugin through poster-edge's own TensorRT: NVIDIA's TensorRT-RTX parses and builds with it, in ``export`` too."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from poster_edge.cli import kernels_graph
from poster_edge.cli.export_steps import FUSED_FILE
from poster_edge.cli.main import main
from poster_edge.errors import UnavailableError, UsageError
from poster_edge.export import engine_report
from poster_edge.export.cross_fusion_op import DOMAIN
from poster_edge.export.engine import BuiltEngine
from poster_edge.export.engine_key import engine_key
from poster_edge.export.engine_plugin import PluginLibrary, open_plugin
from poster_edge.export.engine_process import build_apart
from poster_edge.export.engine_report import verify_engine
from poster_edge.export.engine_spec import EngineSpec, Profile
from poster_edge.export.tensorrt_api import RTX, TensorRt
from poster_edge.kernels.launch import LARGEST_BATCH
from poster_edge.optional import available
from poster_edge.runtime.bundle import Bundle, load_bundle, write_bundle
from poster_edge.runtime.choose import make_runner
from poster_edge.runtime.classifier import Classifier
from poster_edge.runtime.manifest import BundleError

pytestmark = [
    pytest.mark.skipif(not available("triton"), reason="needs Triton"),
    pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++"),
]
Run = Callable[..., str]


@pytest.fixture(scope="module")
def plugin(library: Path) -> PluginLibrary:
    return open_plugin(library)


@pytest.fixture
def spec(plugin: PluginLibrary) -> EngineSpec:
    return EngineSpec(RTX, Profile(1, 4, 16), compute_capabilities=("8.6",), plugin=plugin)


@pytest.fixture
def built(rtx: TensorRt, graph: onnx.ModelProto, spec: EngineSpec) -> BuiltEngine:
    return build_apart(rtx, graph.SerializeToString(), spec)


@pytest.fixture
def bundle(fused: onnx.ModelProto, tmp_path: Path) -> Bundle:
    """The packaged model with a graph whose depths are nodes, as 'export --fused-op' leaves it."""
    packed, graph = load_bundle("poster-nano"), tmp_path / "fused.onnx"
    graph.write_bytes(fused.SerializeToString())
    files = {name: packed.folder / name for name in packed.manifest.artefacts}
    return write_bundle(tmp_path / "fused", replace(packed.manifest, artefacts={}), {**files, FUSED_FILE: graph})


@pytest.fixture
def run_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """One of our commands, which must end with an exit code; what it said."""

    def run(*words: str | Path, code: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["poster-edge", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        said = "".join(capsys.readouterr())
        assert ended.value.code == code, said
        return " ".join(said.split())

    return run


def test_the_library_says_what_it_is(plugin: PluginLibrary, library: Path) -> None:
    assert (plugin.path, plugin.precision, plugin.activations) == (library, "fp16", "fp16")
    assert len(plugin.sha256) == 64


def test_files_that_are_no_plugin(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match=r"nothing\.so: no such file; build it"):
        open_plugin(tmp_path / "nothing.so")
    other = tmp_path / "other.so"
    other.write_text("no library")
    with pytest.raises(UnavailableError, match=r"no plugin of poster-edge for this machine \(.*; build it"):
        open_plugin(other)
    libc = next(p for p in Path("/").glob("lib/*-linux-gnu/libc.so.6"))
    with pytest.raises(UnavailableError, match="posterEdgePluginPrecision"):
        open_plugin(libc)


def test_tensorrt_rtx_builds_with_the_plugin(rtx: TensorRt, built: BuiltEngine) -> None:
    """NVIDIA's parser picks our creator for the node, its builder asks the plugin, and the plan names it."""
    assert built.network.plugins == ("cross_fusion",)
    assert built.network.others["plugin_v3 fp16"] == 1
    assert built.network.softmaxes == 0
    assert b"CrossFusionDepth" in built.plan
    report = verify_engine(rtx, built, "fp32")
    assert "the cross-fusion is the plugin's, in fp16: cross_fusion" in report.notes


def test_the_plugin_is_known_before_an_engine_is_read_back(
    rtx: TensorRt, built: BuiltEngine, plugin: PluginLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a GPU is; the engine was built in a process of its own."""
    known: list[bool] = []
    monkeypatch.setattr(engine_report, "visible_gpus", lambda: ["a GPU"])
    monkeypatch.setattr(engine_report, "inspect_engine", lambda *_: known.append(plugin.sha256 in rtx.plugins))
    verify_engine(rtx, built, "fp32")
    assert known == [True]


def test_an_engine_without_the_plugin_is_refused(rtx: TensorRt, built: BuiltEngine) -> None:
    without = replace(built, network=replace(built.network, plugins=()))
    with pytest.raises(UnavailableError, match="did not take the plugin into the engine"):
        verify_engine(rtx, without, "fp32")


def test_what_the_plugin_says_is_passed_on(rtx: TensorRt, graph: onnx.ModelProto, spec: EngineSpec) -> None:
    large = replace(spec, profile=Profile(1, 4, LARGEST_BATCH + 1))
    with pytest.raises(UnavailableError, match=f"a batch of {LARGEST_BATCH + 1} is too large"):
        build_apart(rtx, graph.SerializeToString(), large)
    other = onnx.ModelProto()
    other.CopyFrom(graph)
    node = next(n for n in other.graph.node if n.domain == DOMAIN)
    next(a for a in node.attribute if a.name == "shape").ints[1] = 4
    with pytest.raises(UnavailableError, match="the node has 37 4 2 1 128 64 32"):
        build_apart(rtx, other.SerializeToString(), spec)


def test_a_graph_for_the_plugin_without_it(rtx: TensorRt, graph: onnx.ModelProto, spec: EngineSpec) -> None:
    with pytest.raises(UnavailableError, match="CrossFusionDepth"):
        build_apart(rtx, graph.SerializeToString(), replace(spec, plugin=None))


def test_a_plan_goes_with_its_plugin(rtx: TensorRt, spec: EngineSpec, plugin: PluginLibrary) -> None:
    digests = {
        engine_key(rtx, replace(spec, plugin=p), gpu=None, onnx_sha256="0" * 64).digest
        for p in (None, plugin, replace(plugin, sha256="1" * 64))
    }
    assert len(digests) == 3


def test_export_builds_and_verifies(
    rtx: TensorRt, run_command: Run, bundle: Bundle, library: Path, tmp_path: Path
) -> None:
    """From a bundle of 'export --fused-op' to an engine with the plugin in it, by the commands that a user types."""
    words = ["export", "--format", "tensorrt-rtx", "--compute-capability", "8.6", "--plugin", library]
    out = ["--model", bundle.folder, "-o", tmp_path / "engine"]
    assert "poster-edge kernels graph" in run_command(*words, *out, code=4)
    said = run_command("kernels", "graph", bundle.folder)
    assert f"{bundle.folder}/model.plugin-fp16.onnx: " in said
    assert "fp32" in run_command(*words, *out, "--precision", "fp32", code=2)
    said = run_command(*words, *out)
    assert "the cross-fusion is the plugin's, in fp16: cross_fusion" in said
    assert f"--runtime tensorrt-rtx --plugin {library} --source PHOTO" in said
    (record,) = json.loads((tmp_path / "engine" / "manifest.json").read_text())["engines"].values()
    assert (record["model"], record["precision"]) == ("model.plugin-fp16.onnx", "fp16")
    done = load_bundle(tmp_path / "engine")
    done.verify()
    # Another graph makes the engine stale: it goes, and nothing else does.
    run_command("kernels", "graph", done.folder)
    again = load_bundle(done.folder)
    again.verify()
    assert not again.manifest.engines
    assert set(again.manifest.artefacts) == {n for n in done.manifest.artefacts if not n.startswith("engines/")}


def test_layers_that_were_left_in_float_are_no_error(
    rtx: TensorRt, run_command: Run, bundle: Bundle, library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As FP16 cannot hold their values: the engine computes them as the graph says."""
    monkeypatch.setattr(kernels_graph, "overflow_islands", lambda *_: {"head": 1e5})
    run_command("kernels", "graph", bundle.folder)
    words = ["export", "--format", "tensorrt-rtx", "--compute-capability", "8.6", "--plugin", library]
    said = run_command(*words, "--model", bundle.folder, "-o", tmp_path / "engine")
    assert "matrix products: 1 fp32" in said


def test_weights_from_elsewhere_have_no_graph(rtx: TensorRt, run_command: Run, library: Path) -> None:
    words = ["export", "--format", "tensorrt-rtx", "--compute-capability", "8.6", "--plugin", library]
    assert "takes a finished bundle" in run_command(*words, "--model", "poster-nano", "--random-weights", code=2)


def test_runtimes_and_precisions_that_do_not_go_with_it(bundle: Bundle, plugin: PluginLibrary) -> None:
    with pytest.raises(UsageError, match="--plugin is for --runtime tensorrt or tensorrt-rtx, not onnxruntime"):
        Classifier(bundle, runtime="onnxruntime", plugin=plugin.path)
    with pytest.raises(UsageError, match="compute in fp16; leave --precision out"):
        Classifier(bundle, runtime="tensorrt", precision="fp32", plugin=plugin.path)
    with pytest.raises(BundleError, match=r"no graph for a plugin in fp16 \(model\.plugin-fp16\.onnx\)"):
        make_runner(bundle, runtime="tensorrt", precision="fp16", device="auto", threads=None, plugin=plugin)
    with pytest.raises(UnavailableError, match="is for TensorRT, which cannot serve here"):
        make_runner(bundle, runtime="auto", precision="fp16", device="cpu", threads=None, plugin=plugin)
