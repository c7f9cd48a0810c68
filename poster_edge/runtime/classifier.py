"""From face crops to calibrated probabilities: preprocessing, one batch, temperature, softmax."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from poster_edge.data.preprocess import to_input
from poster_edge.errors import UnavailableError
from poster_edge.runtime.bundle import Bundle
from poster_edge.runtime.choose import make_runner, plugin_for
from poster_edge.runtime.runner import Pending, asynchronous
from poster_edge.train.metrics import softmax


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
        compiled: torch.compile translates what the kernels do not compute; for torch only.
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
        compiled: bool = False,
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
            compiled=compiled,
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
