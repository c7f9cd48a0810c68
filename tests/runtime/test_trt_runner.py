"""The TensorRT runner's own work (splitting, filling up, buffers, graphs, order, plans) on a double of CUDA.

What needs a GPU is in benchmarks/gpu.py.  The double defers all work until somebody waits for it, poisons memory,
and computes the model with onnxruntime, so that the numbers can be compared with onnxruntime's own.
"""

from __future__ import annotations

import hashlib
import runpy
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from poster_edge.errors import PosterEdgeError, UnavailableError, UsageError
from poster_edge.export.engine import build_engine
from poster_edge.export.engine_plugin import PluginLibrary
from poster_edge.export.engine_spec import EngineSpec, Profile
from poster_edge.export.gpu import visible_gpus
from poster_edge.export.tensorrt_api import RTX, TensorRt
from poster_edge.runtime import trt_plans, trt_runner
from poster_edge.runtime.bundle import Bundle, load_bundle, write_bundle
from poster_edge.runtime.classifier import Classifier
from poster_edge.runtime.device_memory import CudaError
from poster_edge.runtime.engine_cache import EngineCache
from poster_edge.runtime.manifest import Artefact, BundleError
from poster_edge.runtime.trt_engine import deserialise
from poster_edge.runtime.trt_runner import TensorRtRunner

TensorRtDouble: Any = runpy.run_path(str(Path(__file__).with_name("cuda_double.py")))["TensorRtDouble"]


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """TensorRT and CUDA replaced; the cache is a real one in a fresh folder."""
    made = TensorRtDouble()
    monkeypatch.setattr(trt_runner, "load", lambda flavour: made)
    monkeypatch.setattr(trt_plans, "build_plan", lambda tensorrt, onnx, spec, progress, gpu: made.build(onnx))
    monkeypatch.setenv("POSTER_EDGE_CACHE", str(tmp_path / "cache"))
    return made


@pytest.fixture
def bundle(tiny_bundle: Path) -> Bundle:
    return load_bundle(tiny_bundle)


@pytest.fixture
def reference(bundle: Bundle) -> Callable[[np.ndarray], np.ndarray]:
    session = ort.InferenceSession(bundle.read("model.onnx"), providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"image": images})[0]


def runner_of(double: Any, bundle: Bundle, **options: Any) -> TensorRtRunner:
    return TensorRtRunner(bundle, flavour="tensorrt-rtx", opener=double.open, **options)


@pytest.fixture
def runner(double: Any, bundle: Bundle) -> Iterator[TensorRtRunner]:
    with runner_of(double, bundle) as entered:
        yield entered


def images(rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, 3, 16, 16)).astype(np.float32)


def executed(double: Any) -> list[str]:
    return [line for line in double.device.log if line.startswith(("execute", "launch", "begin"))]


def test_a_plugin_is_loaded_before_a_plan_is_opened_and_brings_its_graph(
    double: Any, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which graph, key and order; ``tests/kernels/test_plugin_tensorrt.py`` has the plugin itself."""
    name, plugin = "model.plugin-w8a16.onnx", PluginLibrary(tmp_path / "plugin.so", "0" * 64, "w8a16")
    files = {"model.onnx": bundle.folder / "model.onnx", name: bundle.folder / "model.onnx"}
    packed = write_bundle(tmp_path / "packed", replace(bundle.manifest, artefacts={}), files)
    loaded: list[tuple[PluginLibrary, int]] = []
    monkeypatch.setattr(double, "load_plugin", lambda given: loaded.append((given, len(double.opened))), raising=False)
    with runner_of(double, packed, plugin=plugin) as runner:
        assert loaded == [(plugin, 0)]
        assert len(double.opened) == 1
        assert (runner.file, runner.precision) == (name, "w8a16")
        assert "with the plugin" in runner.description
    (record,) = EngineCache().records().values()
    assert record.fields["plugin"] == plugin.sha256
    with pytest.raises(BundleError, match="poster-edge kernels graph"):
        runner_of(double, bundle, plugin=plugin)


@pytest.mark.parametrize("rows", [1, 2, 7, 8, 9, 16, 20, 33])
def test_any_batch_gives_onnxruntimes_numbers(runner: TensorRtRunner, reference: Any, rows: int) -> None:
    batch = images(rows)
    np.testing.assert_allclose(runner.infer({"image": batch})["logits"], reference(batch), atol=1e-6)


def test_an_empty_batch(runner: TensorRtRunner, double: Any) -> None:
    assert runner.infer({"image": images(0)})["logits"].shape == (0, 7)
    assert executed(double) == []


def test_a_large_batch_is_split(runner: TensorRtRunner, double: Any) -> None:
    runner.infer({"image": images(20)})
    assert [line.split()[1] for line in double.device.log if line.startswith("copy_to_device")] == ["8", "8", "4"]


def test_a_small_batch_is_filled_up(double: Any, bundle: Bundle, reference: Any) -> None:
    double.batches = (4, 6)
    batch = images(7)
    with runner_of(double, bundle) as runner:
        found = runner.infer({"image": batch})["logits"]
        runner.infer({"image": batch[:1]})
        (memory,) = [m for a, m in double.device.memory.items() if a == runner._tensors.addresses["image"]]
        # (bytes,) -> (4, 3, 16, 16): the one row and three copies of it
        np.testing.assert_array_equal(memory.view(np.float32)[: 4 * 768].reshape(4, 3, 16, 16), batch[[0, 0, 0, 0]])
    assert executed(double) == ["execute 6", "execute 4", "begin_capture", "execute 4 into a graph", "launch"]
    assert found.shape == (7, 7)
    np.testing.assert_allclose(found, reference(batch), atol=1e-6)


def test_buffers_grow_and_are_used_again(runner: TensorRtRunner, double: Any, reference: Any) -> None:
    for rows in (1, 1, 3, 2, 3, 8, 5, 8, 1):
        batch = images(rows, seed=rows)
        np.testing.assert_allclose(runner.infer({"image": batch})["logits"], reference(batch), atol=1e-6)
    row = 3 * 16 * 16 * 4
    sizes = [int(line.split()[1]) for line in double.device.log if line.startswith("allocate ")]
    # 1, then 4 (three rounded up), then 8 rows, each of input and output; scratch memory once.
    assert [s // row for s in sizes if s >= row] == [1, 4, 8]
    assert sizes.count(1024) == 1
    before = len(double.device.log)
    for _ in range(3):
        runner.infer({"image": images(8)})
        runner.infer({"image": images(1)})
    assert not [line for line in double.device.log[before:] if line.startswith("allocate")]


def test_a_graph_for_each_batch_size(runner: TensorRtRunner, double: Any, reference: Any) -> None:
    runner.infer({"image": images(8)})
    double.device.log.clear()
    for seed in range(4):
        batch = images(2, seed)
        np.testing.assert_allclose(runner.infer({"image": batch})["logits"], reference(batch), atol=1e-6)
    assert executed(double) == ["execute 2", "begin_capture", "execute 2 into a graph", "launch", "launch", "launch"]
    runner.infer({"image": images(8)})
    assert runner.graphs == {2: True, 8: True}


def test_the_graph_used_least_recently_goes(runner: TensorRtRunner, double: Any, reference: Any) -> None:
    runner.infer({"image": images(8)})
    for rows in (1, 2, 3, 1, 4):
        for seed in range(3):
            batch = images(rows, seed)
            np.testing.assert_allclose(runner.infer({"image": batch})["logits"], reference(batch), atol=1e-6)
    assert runner.graphs == {2: True, 3: True, 1: True, 4: True}
    assert len(double.device.graphs) == 4
    runner.infer({"image": images(8)})
    assert list(runner.graphs) == [3, 1, 4, 8]
    assert len(double.device.graphs) == 3


def test_a_graph_that_is_under_way_is_not_given_back(runner: TensorRtRunner, reference: Any) -> None:
    runner.infer({"image": images(8)})
    runner._lanes._keep = 1
    for rows in (1, 2):
        batches = [images(rows, seed) for seed in range(3)]
        pending = [runner.submit({"image": batch}) for batch in batches]
        for one, batch in zip(pending, batches, strict=True):
            np.testing.assert_allclose(one.result()["logits"], reference(batch), atol=1e-6)
    first, second = runner.submit({"image": images(2)}), runner.submit({"image": images(1)})
    np.testing.assert_allclose(first.result()["logits"], reference(images(2)), atol=1e-6)
    np.testing.assert_allclose(second.result()["logits"], reference(images(1)), atol=1e-6)


def test_growing_drops_graphs_that_hold_old_addresses(runner: TensorRtRunner, double: Any, reference: Any) -> None:
    for rows in (1, 1, 1, 2, 1, 1):
        batch = images(rows, seed=rows)
        np.testing.assert_allclose(runner.infer({"image": batch})["logits"], reference(batch), atol=1e-6)
    assert runner.graphs == {2: False, 1: True}


@pytest.mark.parametrize("how", ["not capturable", "fails in the capture", "fails at its end"])
def test_what_cannot_be_captured_runs_kernel_by_kernel_and_is_said(
    double: Any, bundle: Bundle, reference: Any, how: str
) -> None:
    lines: list[str] = []
    double.capturable = how != "not capturable"
    double.device.fail = {"fails in the capture": {"capture"}, "fails at its end": {"end_capture"}}.get(how, set())
    with runner_of(double, bundle, notify=lines.append) as runner:
        for seed in range(4):
            batch = images(1, seed)
            np.testing.assert_allclose(runner.infer({"image": batch})["logits"], reference(batch), atol=1e-6)
        runner.infer({"image": images(2)})
        runner.infer({"image": images(2)})
    assert len([line for line in lines if "no CUDA graph for batches of 1" in line]) == 1
    assert len([line for line in lines if "no CUDA graph" in line]) == 1
    assert "launch" not in executed(double)
    assert not double.device.live


def test_two_batches_are_under_way_and_a_third_waits(runner: TensorRtRunner, double: Any, reference: Any) -> None:
    batches = [images(3, seed) for seed in range(5)]
    runner.infer({"image": batches[0]})
    double.device.log.clear()
    pending = []
    for i, batch in enumerate(batches):
        pending.append(runner.submit({"image": batch}))
        # Nothing has been waited for while there was a free slot.
        assert double.device.log.count("wait") == max(0, i - 1)
        assert [p.done for p in pending] == [True] * max(0, i - 1) + [False] * min(2, i + 1)
    for one, batch in zip(reversed(pending), reversed(batches), strict=True):
        np.testing.assert_allclose(one.result()["logits"], reference(batch), atol=1e-6)
        assert one.result() is one.result()


def test_the_feed_may_be_changed_at_once(runner: TensorRtRunner, reference: Any) -> None:
    batch = images(2)
    expected = reference(batch)
    pending = runner.submit({"image": batch})
    batch[:] = 0
    later = runner.submit({"image": batch})
    np.testing.assert_allclose(pending.result()["logits"], expected, atol=1e-6)
    np.testing.assert_allclose(later.result()["logits"], reference(batch), atol=1e-6)


def test_results_are_arrays_of_their_own(runner: TensorRtRunner) -> None:
    first = runner.infer({"image": images(2, 1)})["logits"]
    kept = first.copy()
    for seed in range(2, 6):
        runner.infer({"image": images(2, seed)})
    np.testing.assert_array_equal(first, kept)


def test_split_batches_keep_their_order_beside_others(runner: TensorRtRunner, reference: Any) -> None:
    large, small = images(21, 1), images(2, 2)
    first, second = runner.submit({"image": large}), runner.submit({"image": small})
    np.testing.assert_allclose(second.result()["logits"], reference(small), atol=1e-6)
    assert first.done
    np.testing.assert_allclose(first.result()["logits"], reference(large), atol=1e-6)


def test_growing_while_batches_are_under_way(runner: TensorRtRunner, reference: Any) -> None:
    batches = [images(rows, rows) for rows in (1, 3, 8, 2)]
    pending = [runner.submit({"image": b}) for b in batches]
    for one, batch in zip(pending, batches, strict=True):
        np.testing.assert_allclose(one.result()["logits"], reference(batch), atol=1e-6)


def test_any_dtype_and_layout_of_the_feed(runner: TensorRtRunner, reference: Any) -> None:
    batch = images(2)
    strided = np.asfortranarray(batch.astype(np.float64))
    np.testing.assert_allclose(runner.infer({"image": strided})["logits"], reference(batch), atol=1e-6)


@pytest.mark.parametrize(
    "feed",
    [{}, {"picture": images(1)}, {"image": images(1)[:, :2]}, {"image": images(1)[0]}, {"image": np.zeros(())}],
    ids=["nothing", "name", "channels", "no batch", "scalar"],
)
def test_a_feed_that_does_not_fit_is_refused(runner: TensorRtRunner, feed: dict[str, np.ndarray]) -> None:
    with pytest.raises(ValueError, match="the engine takes 'image' .N, 3, 16, 16."):
        runner.infer(feed)


def test_everything_is_given_back(double: Any, bundle: Bundle) -> None:
    with runner_of(double, bundle) as runner:
        for rows in (1, 1, 1, 8, 8, 3):
            runner.infer({"image": images(rows)})
        lost = runner.submit({"image": images(2)})
        assert double.device.live
    assert not double.device.live
    assert double.device.closed
    with pytest.raises(RuntimeError, match="the runner was left"):
        lost.result()
    with pytest.raises(RuntimeError, match="before the runner was entered"):
        runner.submit({"image": images(1)})


@pytest.mark.parametrize("call", ["allocate", "allocate_host", "copy_to_device", "execute", "copy_to_host", "wait"])
def test_a_failing_gpu_is_one_clear_error_and_nothing_is_left(double: Any, bundle: Bundle, call: str) -> None:
    with pytest.raises(CudaError, match="the test says so|TensorRT could not run the engine"):  # noqa: SIM117
        with runner_of(double, bundle) as runner:
            runner.infer({"image": images(1)})
            double.device.fail = {call}
            try:
                runner.infer({"image": images(8)})
            finally:
                double.device.fail = set()
    assert not double.device.live - len(double.device.events)


def test_a_result_whose_gpu_failed_is_never_half_an_array(double: Any, bundle: Bundle) -> None:
    with runner_of(double, bundle) as runner:
        pending = runner.submit({"image": images(1)})
        double.device.fail = {"wait"}
        for _ in range(2):
            with pytest.raises(CudaError, match="could not wait"):
                pending.result()


def test_a_failure_while_entering_gives_everything_back(double: Any, bundle: Bundle) -> None:
    double.device.fail = {"allocate"}
    runner = runner_of(double, bundle)
    with pytest.raises(CudaError), runner:
        runner.infer({"image": images(1)})
    assert not double.device.live
    assert double.device.closed


class TestPlans:
    """Which bytes reach the deserialiser."""

    def test_what_tensorrt_times_is_kept_for_the_next_build(
        self, double: Any, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[EngineSpec] = []

        def build(tensorrt: Any, onnx: bytes, spec: EngineSpec, progress: Any, gpu: int) -> bytes:
            asked.append(spec)
            return double.build(onnx)

        monkeypatch.setattr(trt_plans, "build_plan", build)
        for spec in (EngineSpec(RTX), EngineSpec(RTX, Profile(1, 2, 4)), EngineSpec(RTX, timing_cache=Path("mine"))):
            with runner_of(double, bundle, spec=replace(spec, workspace_mib=len(asked) + 1)):
                pass
        first, second, own = (spec.timing_cache for spec in asked)
        assert first == second == EngineCache().timing_cache(RTX, double.device.gpu.name)
        assert own == Path("mine")

    def test_the_first_run_builds_and_the_second_does_not(self, double: Any, bundle: Bundle) -> None:
        lines: list[str] = []
        for _ in range(2):
            with runner_of(double, bundle, notify=lines.append):
                pass
        assert double.builds == 1
        assert lines == ["building the engine of tiny fp32: none is here yet"]
        assert [hashlib.sha256(p).digest() for p in double.opened] == [
            hashlib.sha256(double.build(bundle.read("model.onnx"))).digest()
        ] * 2

    def test_a_damaged_plan_never_reaches_the_deserialiser(self, double: Any, bundle: Bundle) -> None:
        with runner_of(double, bundle):
            pass
        (path,) = (EngineCache().folder).glob("*.plan")
        good = path.read_bytes()
        lines: list[str] = []
        for damaged in (good[:-1], good[:100] + b"\1" + good[101:], b"", b"MZ", good + good):
            path.write_bytes(damaged)
            with runner_of(double, bundle, notify=lines.append):
                pass
            assert path.read_bytes() == good
        assert set(double.opened) == {good}
        assert double.builds == 6
        assert all("the old one" in line for line in lines)
        assert len(lines) == 5

    def test_a_plan_that_tensorrt_refuses_is_built_again_once(self, double: Any, bundle: Bundle) -> None:
        with runner_of(double, bundle):
            pass
        double.refuse = 1
        lines: list[str] = []
        with runner_of(double, bundle, notify=lines.append) as runner:
            assert runner.infer({"image": images(1)})["logits"].shape == (1, 7)
        assert "cannot open the engine: the magic tag does not match" in lines[0]
        assert double.builds == 2
        double.refuse = 99
        with pytest.raises(UnavailableError, match="cannot open the engine"), runner_of(double, bundle):
            pass

    def test_a_plan_of_another_profile_or_model_is_another_plan(self, double: Any, bundle: Bundle) -> None:
        with runner_of(double, bundle):
            pass
        lines: list[str] = []
        spec = EngineSpec("tensorrt-rtx", Profile(1, 2, 4))
        with runner_of(double, bundle, spec=spec, notify=lines.append):
            pass
        assert lines == ["building the engine of tiny fp32: none is here yet for profile 1/1/8 (now 1/2/4)"]

    def packed(self, double: Any, bundle: Bundle, folder: Path, plan: bytes) -> Bundle:
        """The bundle with a plan in its engines/, named as this machine's own would be."""
        shutil.copytree(bundle.folder, folder)
        runner = runner_of(double, bundle)
        name = f"engines/{runner._plans.key(double.device, bundle.read('model.onnx')).digest}.plan"
        (folder / "engines").mkdir()
        (folder / name).write_bytes(plan)
        artefact = Artefact(hashlib.sha256(plan).hexdigest(), len(plan))
        return Bundle(folder, replace(bundle.manifest, artefacts={**bundle.manifest.artefacts, name: artefact}))

    def test_a_bundles_plan_from_elsewhere_is_not_opened(self, double: Any, bundle: Bundle, tmp_path: Path) -> None:
        foreign = double.build(bundle.read("model.onnx")) + b"from elsewhere"
        packed = self.packed(double, bundle, tmp_path / "bundle", foreign)
        lines: list[str] = []
        double.builds = 0
        with runner_of(double, packed, notify=lines.append):
            pass
        assert foreign not in double.opened
        assert double.builds == 1
        assert "was not built here by this user and is not opened" in lines[0]
        assert "--trust-engine" in lines[0]

    def test_it_is_opened_when_the_user_says_so_and_stays_untrusted(
        self, double: Any, bundle: Bundle, tmp_path: Path
    ) -> None:
        foreign = double.build(bundle.read("model.onnx"))
        packed = self.packed(double, bundle, tmp_path / "bundle", foreign)
        lines: list[str] = []
        double.builds = 0
        with runner_of(double, packed, trust_engine=True, notify=lines.append):
            pass
        assert double.opened == [foreign]
        assert double.builds == 0
        assert "--trust-engine" in lines[0]
        assert not EngineCache().records()
        assert EngineCache().ledger(hashlib.sha256(foreign).hexdigest()) is None

    def known(self, double: Any, bundle: Bundle, plan: bytes, **fields: Any) -> None:
        """Put a plan on this machine's ledger, under a key that differs in some fields."""
        key = runner_of(double, bundle)._plans.key(double.device, bundle.read("model.onnx"))
        EngineCache().remember(hashlib.sha256(plan).hexdigest(), replace(key, **fields), size=len(plan))

    @pytest.mark.parametrize(
        "chosen",
        [{}, {"profile": "1/4/8"}, {"flags": ("workspace=64MiB",)}, {"compute_capabilities": ("8.6", "8.9")}],
        ids=str,
    )
    def test_one_that_was_built_here_is_opened(
        self, double: Any, bundle: Bundle, tmp_path: Path, chosen: dict[str, Any]
    ) -> None:
        plan = double.build(bundle.read("model.onnx"))
        packed = self.packed(double, bundle, tmp_path / "bundle", plan)
        self.known(double, bundle, plan, **chosen)
        double.builds = 0
        with runner_of(double, packed):
            pass
        assert double.opened == [plan]
        assert double.builds == 0

    @pytest.mark.parametrize(
        "other",
        [
            {"gpu": "another"},
            {"driver": "1.0"},
            {"cuda": "12.0"},
            {"tensorrt": "10.3"},
            {"flavour": "tensorrt"},
            {"onnx_sha256": "0" * 64},
            {"calibration": "other"},
            {"compute_capabilities": ("8.9",)},
        ],
        ids=str,
    )
    def test_one_that_was_built_here_for_something_else_is_not(
        self, double: Any, bundle: Bundle, tmp_path: Path, other: dict[str, Any]
    ) -> None:
        plan = double.build(bundle.read("model.onnx")) + b"for something else"
        packed = self.packed(double, bundle, tmp_path / "bundle", plan)
        self.known(double, bundle, plan, **other)
        with runner_of(double, packed):
            pass
        assert plan not in double.opened

    def test_a_bundles_plan_whose_bytes_changed_is_refused(self, double: Any, bundle: Bundle, tmp_path: Path) -> None:
        plan = double.build(bundle.read("model.onnx"))
        packed = self.packed(double, bundle, tmp_path / "bundle", plan)
        (path,) = (packed.folder / "engines").iterdir()
        path.write_bytes(plan[:-1] + b"\0")
        with pytest.raises(BundleError, match="SHA-256"), runner_of(double, packed, trust_engine=True):
            pass
        assert double.opened == []

    def test_an_engine_that_does_not_fit_the_manifest(self, double: Any, bundle: Bundle, tmp_path: Path) -> None:
        shutil.copytree(bundle.folder, tmp_path / "bundle")
        text = (tmp_path / "bundle" / "manifest.json").read_text()
        (tmp_path / "bundle" / "manifest.json").write_text(text.replace('"logits"', '"scores"'))
        with pytest.raises(BundleError, match="do not fit the manifest"):  # noqa: SIM117
            with runner_of(double, load_bundle(tmp_path / "bundle")):
                pass
        assert not double.device.live


@pytest.mark.parametrize(
    ("device", "error", "words"),
    [("cpu", UnavailableError, "NVIDIA GPUs only"), ("tpu", UsageError, "auto or cuda:N"), ("cuda:x", UsageError, "N")],
)
def test_devices_that_there_are_not(double: Any, bundle: Bundle, device: str, error: type, words: str) -> None:
    with pytest.raises(error, match=words):
        runner_of(double, bundle, device=device)


def test_a_gpu_that_rtx_has_no_code_for_is_refused_before_a_build(double: Any, bundle: Bundle) -> None:
    double.compute_capabilities = ("7.5", "8.9")
    with pytest.raises(UnavailableError, match=r"double of a GPU .compute capability 8.6; it knows 7.5, 8.9"):  # noqa: SIM117
        with runner_of(double, bundle):
            pass
    assert double.builds == 0


def test_a_classifier_runs_on_it(double: Any, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole way from crops to probabilities, temperature included."""
    monkeypatch.setattr(trt_runner, "open_device", double.open)
    monkeypatch.setattr(trt_runner, "require_gpu", lambda index: double.device.gpu)
    monkeypatch.setattr(trt_runner, "choose_package", lambda: "numpy")
    crops = [np.random.default_rng(i).integers(0, 255, (40, 40, 3), np.uint8) for i in range(11)]
    with (
        Classifier(bundle, runtime="tensorrt-rtx") as on_double,
        Classifier(bundle, runtime="onnxruntime", device="cpu") as on_cpu,
    ):
        np.testing.assert_allclose(on_double(crops), on_cpu(crops), atol=1e-6)
        assert on_double.runtime == "tensorrt-rtx double (double of a GPU, fp32, numpy)"


@pytest.mark.parametrize(
    "plan", [b"", b"vtrt", b"vtrt" + bytes(5000), b"MZ" * 300], ids=["empty", "short", "zeros", "other"]
)
def test_nvidias_deserialiser_refuses_what_is_no_plan_with_one_line(rtx: TensorRt, plan: bytes) -> None:
    """What would happen behind the cache's hash check: an error, no crash."""
    with pytest.raises(UnavailableError, match="TensorRT-RTX .* cannot (open the engine|start)") as caught:
        deserialise(rtx, plan)
    assert "\n" not in str(caught.value)


def test_nvidias_deserialiser_survives_damaged_plans_of_its_own_make(rtx: TensorRt, bundle: Bundle) -> None:
    """Behind the cache's hash check as well: cut and changed plans are one line each, or open where a GPU is."""
    plan = build_engine(rtx, bundle.read("model.onnx"), EngineSpec(RTX, compute_capabilities=("8.6",))).plan
    cuts = [plan[:length] for length in (1, 63, 64, 65, len(plan) // 2, len(plan) - 1)]
    flips = [plan[:at] + bytes([plan[at] ^ 0x55]) + plan[at + 1 :] for at in (0, 4, 16, 70, len(plan) // 2)]
    said: list[str] = []
    for damaged in (*cuts, *flips, plan + plan):
        try:
            deserialise(rtx, damaged)
        except UnavailableError as error:
            said.append(str(error))
    assert len(said) >= (len(cuts) if visible_gpus() else 12)
    assert all(line.startswith("TensorRT-RTX") and "\n" not in line for line in said)


def test_the_double_has_only_what_tensorrt_has(bundle: Bundle, rtx: TensorRt) -> None:
    """Every method the double offers exists in NVIDIA's bindings, under that name."""
    real: Any = rtx.module
    double = TensorRtDouble()
    double.runtime().deserialize_cuda_engine(double.build(bundle.read("model.onnx")))
    engine = double.engine
    own = {"device", "batches", "capturable", "session", "inputs", "outputs", "shapes", "contexts"}
    pairs = [
        (engine, real.ICudaEngine, own),
        (engine.create_execution_context(), real.IExecutionContext, {"engine", "rows", "addresses", "ran", "scratch"}),
        (engine.create_runtime_config(), real.IRuntimeConfig, set()),
        (double.runtime(), real.Runtime, set()),
        (double.module, real, set()),
    ]
    for ours, theirs, besides in pairs:
        names = {n for n in dir(ours) if not n.startswith("_")} - besides
        assert names
        assert names <= set(dir(theirs)), f"{theirs} lacks {names - set(dir(theirs))}"


def test_errors_of_a_gpu_are_users_errors() -> None:
    assert issubclass(CudaError, PosterEdgeError)
    assert CudaError("x").exit_code == 1
