"""From face crops to calibrated probabilities: preprocessing, one batch, temperature, softmax."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from poster_edge.data.preprocess import to_input
from poster_edge.errors import UnavailableError, UsageError
from poster_edge.optional import available
from poster_edge.runtime import RUNTIMES
from poster_edge.runtime.bundle import Bundle
from poster_edge.runtime.int8_sums import saturates
from poster_edge.runtime.runner import Pending, Runner, asynchronous
from poster_edge.train.metrics import softmax

if TYPE_CHECKING:
    from poster_edge.export.engine_plugin import PluginLibrary


def require_finite(rows: NDArray[np.floating], *, where: str, runtime: str) -> None:
    """Refuse answers (N, C) that are no numbers: the largest of "nan" is the first class, which nothing stands behind.

    Args:
        rows: logits or probabilities.
        where: whose answers they are, for the message.
        runtime: what computed them.

    Raises:
        UnavailableError: one of them is not finite.
    """
    if not np.isfinite(rows).all():
        raise UnavailableError(
            f"{where}: the network's answer on {runtime} is not finite; its values exceed this precision, or its "
            "weights are damaged: try --precision fp32"
        )


class PendingFaces:
    """The faces of one batch on their way through the network.

    Attributes:
        preprocess_ms: time spent on making the batch, in ms.
        infer_ms: time the network took by itself, in ms; known once :meth:`result` has returned.
    """

    def __init__(self, inference: Pending, output: str, *, temperature: float, preprocess_ms: float) -> None:
        self.preprocess_ms = preprocess_ms
        self._inference, self._output, self._temperature = inference, output, temperature

    @property
    def infer_ms(self) -> float:
        """See the class."""
        return self._inference.infer_ms

    def result(self) -> NDArray[np.float64]:
        """Wait for the probabilities (N, C), each row summing to 1."""
        return softmax(np.asarray(self._inference.result()[self._output], np.float32), temperature=self._temperature)


class Classifier:
    """A bundle ready to classify; a context manager.

    Args:
        bundle: an opened bundle.
        runtime: one of ``RUNTIMES``.
        precision: "fp32", "fp16", "int8", or for torch "bf16"; "auto": the manifest's (for torch "fp32").
        device: "auto", "cpu", "cuda:N"; for onnxruntime also "tensorrt:N" and "tensorrt-rtx:N".
        threads: of one operator; None leaves the choice to the runtime.
        trust_engine: open a TensorRT plan that lies in the bundle even if it was not built on this machine.
        plugin: library with a TensorRT plugin for the cross-fusion; with "tensorrt" and "tensorrt-rtx" only, and in the
            precision of its kernels.
        kernels: what computes the cross-fusion, one of ``KERNELS``; for torch only.
        cuda_graph: replay the forward pass from CUDA graphs; for torch only.
        notify: told in one line what "auto" had to pass over, and why a TensorRT engine is built.
        progress: told how far that build is, 0 to 1, and its phase; from another thread.

    Attributes:
        classes: ordered class names.
        preprocess: the bundle's settings, crop margin included.
        precision: of the model that runs.
        plugin: the TensorRT plugin that runs its cross-fusion, None without one.
        temperature: divides its logits before the softmax.
        runtime: what really runs.
        last_ms: "preprocess", "infer", of it "copy" (to a GPU and back, where :meth:`time_copies` was called), and
            "post" (temperature and softmax) of the last call, in ms.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        runtime: str = "auto",
        precision: str = "auto",
        device: str = "auto",
        threads: int | None = None,
        trust_engine: bool = False,
        plugin: Path | None = None,
        kernels: str | None = None,
        cuda_graph: bool = False,
        notify: Callable[[str], None] | None = None,
        progress: Callable[[float, str], None] | None = None,
    ) -> None:
        self.bundle = bundle
        # The manifest speaks of ONNX files; torch runs the weights, which are float32.
        default = "fp32" if runtime == "torch" else bundle.manifest.precision
        self.plugin = None if plugin is None else plugin_for(plugin, runtime, precision)
        if self.plugin is not None:
            default = self.plugin.precision
        self.precision = default if precision == "auto" else precision
        self.classes = bundle.manifest.classes
        self.preprocess = bundle.manifest.preprocess
        self.last_ms: dict[str, float] = {"preprocess": 0.0, "infer": 0.0, "copy": 0.0, "post": 0.0}
        self._runner = make_runner(
            bundle,
            runtime=runtime,
            precision=self.precision,
            device=device,
            threads=threads,
            trust_engine=trust_engine,
            plugin=self.plugin,
            kernels=kernels,
            cuda_graph=cuda_graph,
            notify=notify,
            progress=progress,
        )
        self._async = asynchronous(self._runner)
        self.temperature = bundle.temperature(self._runner.file)

    @property
    def overlaps(self) -> bool:
        """Whether :meth:`submit` can be used: the runtime works while the caller does something else."""
        return self._async is not None

    @property
    def runtime(self) -> str:
        """What really runs, with its version and device."""
        return self._runner.description

    @property
    def file(self) -> str:
        """The bundle's file that runs."""
        return self._runner.file

    def __enter__(self) -> Classifier:
        self._runner.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._runner.__exit__(kind, error, trace)

    def logits(self, crops: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Raw logits (N, C) of N crops, each (h, w, 3) BGR or (h, w) gray, any sizes."""
        began = time.perf_counter()
        batch = to_input(crops, self.preprocess)
        ready = time.perf_counter()
        if len(crops):
            manifest = self.bundle.manifest
            out = self._runner.infer({manifest.input_name: batch})[manifest.output_name]
        else:
            out = np.empty((0, len(self.classes)), np.float32)
        done = time.perf_counter()
        copy_ms = getattr(self._runner, "copy_ms", 0.0)
        self.last_ms = {
            "preprocess": 1e3 * (ready - began),
            "infer": 1e3 * (done - ready),
            "copy": copy_ms,
            "post": 0.0,
        }
        return np.asarray(out, np.float32)

    def submit(self, crops: Sequence[NDArray[np.uint8]]) -> PendingFaces:
        """Begin what a call does with one crop or more, and return while the runtime computes.

        Two batches may be under way: a third waits for the first.

        Raises:
            RuntimeError: this runtime works only while it is waited for; see :attr:`overlaps`.
        """
        if self._async is None:
            raise RuntimeError(f"{self.runtime} has no asynchronous inference")
        began, manifest = time.perf_counter(), self.bundle.manifest
        batch = to_input(crops, self.preprocess)
        preprocess_ms = 1e3 * (time.perf_counter() - began)
        inference = self._async.submit({manifest.input_name: batch})
        return PendingFaces(inference, manifest.output_name, temperature=self.temperature, preprocess_ms=preprocess_ms)

    def __call__(self, crops: Sequence[NDArray[np.uint8]]) -> NDArray[np.float64]:
        """Probabilities (N, C), each row summing to 1."""
        logits = self.logits(crops)
        began = time.perf_counter()
        rows = softmax(logits, temperature=self.temperature) if len(logits) else logits.astype(np.float64)
        self.last_ms["post"] = 1e3 * (time.perf_counter() - began)
        return rows

    def time_copies(self) -> bool:
        """Have copies to a GPU and back timed by themselves.

        Returns:
            Whether the runtime can; False also where it copies nothing, as on a CPU.
        """
        if not hasattr(self._runner, "times_copies"):
            return False
        self._runner.times_copies = True
        return True


def make_runner(
    bundle: Bundle,
    *,
    runtime: str,
    precision: str,
    device: str,
    threads: int | None,
    trust_engine: bool = False,
    plugin: PluginLibrary | None = None,
    kernels: str | None = None,
    cuda_graph: bool = False,
    notify: Callable[[str], None] | None = None,
    progress: Callable[[float, str], None] | None = None,
) -> Runner:
    """The runner for a ``--runtime``, a ``--precision`` and a ``--device``.

    Raises:
        UsageError: an unknown runtime, or an option that is for torch alone.
        UnavailableError: a known one that cannot serve here.
        BundleError: the bundle has no model of that precision.
    """
    if runtime not in RUNTIMES:
        raise UsageError(f"--runtime {runtime}: expected one of {', '.join(RUNTIMES)}")
    if runtime == "torch":
        from poster_edge.runtime.torch_runner import TorchRunner

        return TorchRunner(
            bundle, precision=precision, device=device, threads=threads, kernels=kernels, cuda_graph=cuda_graph
        )
    _check_not_torchs_own(runtime, precision, kernels, cuda_graph=cuda_graph)
    if runtime == "auto":
        runtime = _choose(bundle, precision, device, notify)
    if runtime in ("tensorrt", "tensorrt-rtx"):
        from poster_edge.runtime.trt_runner import TensorRtRunner

        return TensorRtRunner(
            bundle,
            flavour=runtime,
            precision=precision,
            device=device,
            plugin=plugin,
            trust_engine=trust_engine,
            notify=notify,
            progress=progress,
        )
    if plugin is not None:
        raise UnavailableError(f"--plugin {plugin.path} is for TensorRT, which cannot serve here: {runtime} would run")
    # Either package takes a third of a second to import: only the one that runs is.
    if runtime == "openvino":
        from poster_edge.runtime.openvino_runner import OpenVinoRunner

        return OpenVinoRunner(bundle, precision=precision, device=device, threads=threads)
    from poster_edge.runtime.ort_runner import OrtRunner

    return OrtRunner(bundle, precision=precision, device=device, threads=threads, notify=notify)


def plugin_for(path: Path, runtime: str, precision: str) -> PluginLibrary:
    """The library that ``--plugin`` names, where ``--runtime`` and ``--precision`` go with it.

    Raises:
        UsageError: they do not.
        UnavailableError: there is no such plugin.
    """
    from poster_edge.export.engine_plugin import open_plugin

    if runtime not in ("auto", "tensorrt", "tensorrt-rtx"):
        raise UsageError(f"--plugin is for --runtime tensorrt or tensorrt-rtx, not {runtime}")
    library = open_plugin(path)
    if precision not in ("auto", library.precision):
        raise UsageError(
            f"--precision {precision}: the kernels of {path} compute in {library.precision}; leave --precision out"
        )
    return library


def _check_not_torchs_own(runtime: str, precision: str, kernels: str | None, *, cuda_graph: bool) -> None:
    """Refuse what only torch can serve."""
    asked = {
        f"--kernels {kernels}": kernels is not None,
        "--cuda-graph": cuda_graph,
        f"--precision {precision}": precision == "bf16",
    }
    for option in [o for o, given in asked.items() if given]:
        raise UsageError(f"{option} is for --runtime torch, not {runtime}")


def _choose(bundle: Bundle, precision: str, device: str, notify: Callable[[str], None] | None) -> str:
    """What ``--runtime auto`` stands for.

    TensorRT (or TensorRT-RTX) where it, a CUDA package and a GPU are there; else OpenVINO on a CPU where it is
    installed; else onnxruntime.
    """
    if device.startswith("tensorrt"):
        # Devices of onnxruntime alone; TensorRT's own runner takes cuda:N.
        return "onnxruntime"
    if device != "cpu" and (flavour := _tensorrt_that_runs(notify)):
        return flavour
    if device not in ("auto", "cpu") or not available("openvino"):
        return "onnxruntime"
    if device == "auto" and _onnxruntime_has_cuda():
        return "onnxruntime"
    from poster_edge.runtime.openvino_runner import load_openvino

    if precision == "int8" and saturates(bundle, bundle.model_file(precision, placement="inputs")):
        # onnxruntime has integer kernels that are exact even then, OpenVINO has not.
        return "onnxruntime"
    try:
        load_openvino()
    except UnavailableError as error:
        # Nobody asked for OpenVINO by name, and onnxruntime runs the same model in the same precision: a
        # camera should not stay dark over a broken option.  The user is told, and --runtime openvino fails.
        if notify:
            notify(f"{error}; onnxruntime runs the model instead")
        return "onnxruntime"
    return "openvino"


def _tensorrt_that_runs(notify: Callable[[str], None] | None) -> str | None:
    """The flavour of TensorRT that can serve; a broken one is passed over as OpenVINO is, and said."""
    from poster_edge.export.gpu import visible_gpus
    from poster_edge.export.tensorrt_api import FLAVOURS, installed, load

    there = [f for f in FLAVOURS if installed(f)]
    if not there or not (gpus := visible_gpus()):
        return None
    from poster_edge.runtime.device_memory import choose_package
    from poster_edge.runtime.trt_runner import check_capability

    for flavour in there:
        try:
            choose_package()
            check_capability(load(flavour), gpus[0])
            return flavour
        except UnavailableError as error:
            if notify:
                notify(f"{error}; another runtime runs the model instead")
    return None


def _onnxruntime_has_cuda() -> bool:
    """Whether onnxruntime is a build with CUDA, found out without importing it."""
    spec = importlib.util.find_spec("onnxruntime")
    if spec is None or spec.origin is None:
        return False
    return any(Path(spec.origin).parent.glob("capi/*onnxruntime_providers_cuda*"))
