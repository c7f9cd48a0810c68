"""The torch runner: onnxruntime's answers from the bundle's own weights, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from poster_edge.config import Preprocess
from poster_edge.errors import InputError, UnavailableError, UsageError
from poster_edge.kernels import dispatch
from poster_edge.models.build import build_network
from poster_edge.models.checkpoint import ModelInfo, save_checkpoint
from poster_edge.models.config import model_config
from poster_edge.runtime import KERNELS
from poster_edge.runtime.bundle import WEIGHTS_FILE, Bundle, load_bundle
from poster_edge.runtime.checkpoint_bundle import checkpoint_bundle, load_bundle_or_checkpoint
from poster_edge.runtime.classifier import Classifier
from poster_edge.runtime.manifest import BundleError
from poster_edge.runtime.torch_graphs import Captured, CudaGraphs
from poster_edge.runtime.torch_runner import TorchRunner
from poster_edge.vision.samples import sample_crops

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
#: Largest difference of a logit from onnxruntime's in float32; the logits reach 3.
ATOL = {"fp32": 2e-5, "fp16": 2e-2, "bf16": 0.15}


@pytest.fixture(autouse=True)
def _no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(dispatch.VARIABLE, raising=False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)


@pytest.fixture(scope="module")
def nano() -> Bundle:
    return load_bundle("poster-nano")


@pytest.fixture(scope="module")
def crops(nano: Bundle) -> list[np.ndarray]:
    return (sample_crops(nano.manifest.preprocess) * 8)[:8]


@pytest.fixture(scope="module")
def expected(nano: Bundle, crops: list[np.ndarray]) -> np.ndarray:
    with Classifier(nano, runtime="onnxruntime", device="cpu", threads=1) as classifier:
        return classifier.logits(crops)


def checkpoint(folder: Path, model: str) -> Path:
    """Random weights of a small network in a file of their own."""
    torch.manual_seed(0)
    config = model_config(model, num_classes=3)
    preprocess = Preprocess(size=config.input_size, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    info = ModelInfo(model, ("happy", "sad", "angry"), preprocess, "fer2013", temperature=1.5, source="a test")
    save_checkpoint(folder / "own.safetensors", build_network(config).state_dict(), info)
    return folder / "own.safetensors"


@pytest.mark.parametrize("precision", ["auto", "fp16", "bf16"])
def test_agrees_with_onnxruntime(nano: Bundle, crops: list[np.ndarray], expected: np.ndarray, precision: str) -> None:
    with Classifier(nano, runtime="torch", device="cpu", precision=precision, threads=1) as classifier:
        name = "fp32" if precision == "auto" else precision
        assert classifier.precision == name
        assert classifier.runtime == f"torch {torch.__version__.partition('+')[0]} (CPU, {name}, kernels sdpa)"
        assert classifier.temperature == nano.manifest.temperature
        for count in (8, 1, 3, 0):
            found = classifier.logits(crops[:count])
            assert found.shape == (count, 7)
            assert found.dtype == np.float32
            np.testing.assert_allclose(found, expected[:count], rtol=0, atol=ATOL[name])


def test_threads_and_float32_settings_are_given_back(nano: Bundle) -> None:
    threads, tf32 = torch.get_num_threads(), torch.backends.cudnn.allow_tf32
    other = 1 if threads > 1 else 2
    with TorchRunner(nano, device="cpu", threads=other) as runner:
        assert torch.get_num_threads() == other
        with runner._settings():
            assert not torch.backends.cudnn.allow_tf32
            assert torch.is_inference_mode_enabled()
    assert (torch.get_num_threads(), torch.backends.cudnn.allow_tf32) == (threads, tf32)
    with pytest.raises(RuntimeError, match="before the runner was entered"):
        runner.infer({"image": np.zeros((1, 3, 48, 48), np.float32)})


def test_the_kernels_that_were_asked_for_are_named(nano: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(KERNELS) == {"auto", *dispatch.BACKENDS, "triton:int8", "cuda:int8"}
    with TorchRunner(nano, device="cpu", kernels="eager") as runner:
        assert "kernels eager)" in runner.description
    monkeypatch.setenv(dispatch.VARIABLE, "eager")
    with TorchRunner(nano, device="cpu") as runner:
        assert "kernels eager)" in runner.description
    with TorchRunner(nano, device="cpu", kernels="sdpa") as runner:
        assert "kernels sdpa)" in runner.description
    monkeypatch.setenv(dispatch.VARIABLE, "fastest")
    with pytest.raises(UsageError, match="unknown kernels 'fastest'"):
        TorchRunner(nano, device="cpu")


@pytest.mark.parametrize(("kernels", "why"), [("triton", "needs a CUDA GPU"), ("cuda", "needs a CUDA GPU")])
def test_fused_kernels_on_a_cpu_are_refused(nano: Bundle, kernels: str, why: str) -> None:
    with pytest.raises(UnavailableError, match=f"'{kernels}' were asked for.*{why}"):
        TorchRunner(nano, device="cpu", kernels=kernels).__enter__()


def test_a_network_without_cross_fusion_takes_no_fused_kernels(tmp_path: Path) -> None:
    bundle = checkpoint_bundle(checkpoint(tmp_path, "fer-vt-nano"))
    with TorchRunner(bundle, device="cpu") as runner:
        assert "kernels sdpa)" in runner.description
    with pytest.raises(UnavailableError, match="fer-vt-nano has nothing for them: its attention ran on sdpa"):
        TorchRunner(bundle, device="cpu", kernels="triton").__enter__()


def test_a_checkpoint_runs_as_it_is(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, "poster-nano")
    (tmp_path / "link.safetensors").symlink_to(path)
    bundle = load_bundle_or_checkpoint(tmp_path / "link.safetensors", runtime="torch")
    assert (bundle.manifest.model, bundle.manifest.temperature) == ("poster-nano", 1.5)
    x = np.random.default_rng(0).normal(size=(2, 3, 48, 48)).astype(np.float32)
    with TorchRunner(bundle, device="cpu") as runner:
        assert runner.file == "own.safetensors"
        found = runner.infer({"image": x})["logits"]
    from poster_edge.models.checkpoint import load_model

    with torch.no_grad():
        np.testing.assert_allclose(found, load_model(path)[0](torch.from_numpy(x)).numpy(), atol=1e-5)


def test_a_checkpoint_needs_torch_or_an_export(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, "poster-nano")
    with pytest.raises(UsageError, match=r"with --runtime torch, or .*poster-edge export --checkpoint"):
        load_bundle_or_checkpoint(path, runtime="auto")
    with pytest.raises(BundleError, match="no model"):
        load_bundle_or_checkpoint(tmp_path / "missing.safetensors", runtime="torch")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not a readable safetensors file"),
        (b"\x02" + b"\0" * 7 + b"[]", "its header is damaged"),
        (b"\xff" * 40, "its header is damaged"),
        (b"\x02" + b"\0" * 7 + b"{}", "without poster-edge metadata"),
    ],
    ids=["empty", "list", "length", "foreign"],
)
def test_damaged_checkpoints(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError, match=words):
        checkpoint_bundle(path)


def test_weights_that_are_not_the_bundles(nano: Bundle, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    folder.mkdir()
    data = bytearray((nano.folder / WEIGHTS_FILE).read_bytes())
    data[-1] ^= 1
    (folder / WEIGHTS_FILE).write_bytes(data)
    with pytest.raises(BundleError, match="SHA-256"):
        TorchRunner(Bundle(folder, nano.manifest), device="cpu").__enter__()
    turned = replace(nano.manifest, classes=nano.manifest.classes[::-1])
    with pytest.raises(BundleError, match="classes or preprocessing are not the manifest's"):
        TorchRunner(Bundle(nano.folder, turned), device="cpu").__enter__()


def test_a_bundle_without_weights(tiny_bundle: Path) -> None:
    with pytest.raises(BundleError, match=r"has no model\.safetensors.*--model FILE\.safetensors"):
        TorchRunner(load_bundle(tiny_bundle))


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"precision": "int8"}, UnavailableError, "computes in fp32, fp16, bf16; INT8 runs on"),
        ({"device": "tpu"}, UsageError, "expected auto, cpu or cuda:N"),
        ({"device": "cuda:x"}, UsageError, "expected auto, cpu or cuda:N"),
        pytest.param({"device": "cuda:0"}, UnavailableError, "sees no NVIDIA GPU here", marks=no_gpu),
        ({"device": "cpu", "cuda_graph": True}, UnavailableError, "only a GPU has CUDA graphs"),
    ],
    ids=str,
)
def test_what_cannot_be_served(nano: Bundle, options: dict, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        TorchRunner(nano, **options)


def test_a_feed_of_another_name(nano: Bundle) -> None:
    with TorchRunner(nano, device="cpu") as runner, pytest.raises(ValueError, match="takes 'image'"):
        runner.infer({"picture": np.zeros((1, 3, 48, 48), np.float32)})


def test_graphs_are_kept_by_batch_size() -> None:
    """The bookkeeping; what captures is a GPU's, and here an ordinary call into fixed memory."""
    captures: list[int] = []

    def capture(model: Callable[[Tensor], Tensor], x: Tensor) -> Captured:
        captures.append(len(x))
        given, result = torch.full_like(x, torch.nan), torch.empty(len(x), 2)
        return Captured(given, result, lambda: result.copy_(model(given)))

    graphs = CudaGraphs(lambda x: x.flatten(1)[:, :2] * 2, limit=2, capture=capture)
    inputs = [torch.rand(n, 3, 4, 4) for n in (1, 3, 1, 2, 3)]
    outputs = [graphs.run(x) for x in inputs]
    # 3 went for 2, being the one not used for longest, and came again for 1.
    assert captures == [1, 3, 2, 3]
    assert graphs.batches == [2, 3]
    for x, out in zip(inputs, outputs, strict=True):
        assert torch.equal(out, x.flatten(1)[:, :2] * 2), "a result is overwritten by a later replay"
