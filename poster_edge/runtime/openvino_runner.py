"""OpenVINO runner, for CPUs; what really computes is read back from the compiled model."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Mapping
from types import ModuleType, TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from poster_edge.errors import PosterEdgeError, UnavailableError, UsageError
from poster_edge.export.onnx_bytes import check_self_contained
from poster_edge.optional import require
from poster_edge.runtime.bundle import Bundle
from poster_edge.runtime.int8_sums import has_flag, saturates
from poster_edge.runtime.manifest import BundleError
from poster_edge.runtime.openvino_requests import Pending, Requests
from poster_edge.runtime.runner import check_fit

#: Types of OpenVINO's layers that do nearly all of the arithmetic.
_PRODUCTS = ("Convolution", "Deconvolution", "FullyConnected", "MatMul")
_INTEGERS = {"i8", "u8"}


class OpenVinoRunner:
    """Runs a bundle's ONNX model through OpenVINO on the CPU.

    Left alone, OpenVINO computes in bf16 where the CPU can.  Here everything that is not INT8 runs in f32, which
    loses nothing; an FP16 model runs in f16 where that is fast: with AVX512-FP16 alone it takes ten times as long.

    Args:
        bundle: an opened bundle.
        precision: which of its models.
        device: "auto" or "cpu".
        threads: of one inference; None leaves the choice to OpenVINO.
        floats: OpenVINO's name of what computes all that is not INT8, such as "f16"; None: as above.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        precision: str = "fp32",
        device: str = "auto",
        threads: int | None = None,
        floats: str | None = None,
    ) -> None:
        _check_device(device)
        self.bundle = bundle
        self.file = bundle.model_file(precision, placement="inputs")
        self._saturates = precision == "int8" and saturates(bundle, self.file)
        if self._saturates:
            # Without integer kernels OpenVINO takes pairs around float32 only: the form with an FP16 rest fails.
            self.file = bundle.model_file(precision, placement="inputs-outputs")
        self._openvino = load_openvino()
        self._settings: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": floats or ("f16" if precision == "fp16" and has_flag("amx_fp16") else "f32"),
            # Activations are quantised where the graph says so and nowhere else.
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
            # A thread tied to a core that camera, detector or another program keeps busy would wait for it.
            "ENABLE_CPU_PINNING": False,
        }
        if threads:
            self._settings["INFERENCE_NUM_THREADS"] = threads
        if self._saturates:
            # The same quantised values, multiplied in f32: no faster than FP32, but right.
            self._settings["LP_TRANSFORMS_MODE"] = False
        self.description = f"OpenVINO {_version(self._openvino)}"
        self._compiled: Any = None
        self._request: Any = None
        self._requests: Requests | None = None

    def __enter__(self) -> OpenVinoRunner:
        data = self.bundle.read(self.file)
        try:
            check_self_contained(data)
            core = self._openvino.Core()
            model = core.read_model(data)
            check_fit(self.file, self.bundle.manifest, self._shapes(model.inputs), self._shapes(model.outputs))
            self._compiled = core.compile_model(model, "CPU", self._settings)
            self._request = self._compiled.create_infer_request()
        except PosterEdgeError:
            raise
        except Exception as error:  # nearly always RuntimeError, but the bindings promise nothing
            if self._saturates and self.bundle.manifest.artefacts[self.file].placement == "inputs":
                raise UnavailableError(
                    f"{self.file}: INT8 sums saturate in OpenVINO on this CPU (no VNNI), and it cannot compute this "
                    "file in float instead; use --runtime onnxruntime"
                ) from error
            raise BundleError(f"{self.bundle.folder / self.file}: OpenVINO cannot load it: {_reason(error)}") from error
        self.description = f"OpenVINO {_version(self._openvino)} (CPU, {self._arithmetic()})"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._requests is not None:
                self._requests.close()
        finally:
            self._request = self._requests = self._compiled = None

    def infer(self, feed: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Execute the model once; see :class:`poster_edge.runtime.runner.Runner`."""
        if self._request is None:
            raise RuntimeError("infer() before the runner was entered")
        results = self._request.infer(dict(feed))
        return {self._name(port): np.asarray(results[port]) for port in self._compiled.outputs}

    def submit(self, feed: Mapping[str, NDArray[Any]]) -> Pending:
        """Begin an inference; see :class:`poster_edge.runtime.runner.AsyncRunner`."""
        if self._compiled is None:
            raise RuntimeError("submit() before the runner was entered")
        if self._requests is None:
            self._requests = Requests(self._compiled, self._name)
        return self._requests.submit(feed)

    def time_layers(self) -> None:
        """Have the model, once compiled, time every layer."""
        self._settings["PERF_COUNT"] = True

    def layer_times(self) -> list[tuple[str, float]]:
        """Layers that the last inference executed and their times in ms; after :meth:`time_layers`."""
        infos = self._request.get_profiling_info()
        return [(i.node_name, i.real_time.total_seconds() * 1e3) for i in infos if i.status == i.Status.EXECUTED]

    def executed_graph(self) -> Any:
        """The graph that OpenVINO made of the model, with the layers' origins in their ``rt_info``."""
        return self._compiled.get_runtime_model()

    def _name(self, port: Any) -> str:
        """Name of an input or output; of several (an Identity adds one) the manifest's, if it is among them."""
        names = sorted(port.names)
        expected = [n for n in names if n in (self.bundle.manifest.input_name, self.bundle.manifest.output_name)]
        return str((expected or names or ["?"])[0])

    def _shapes(self, ports: list[Any]) -> dict[str, list[int | str]]:
        return {self._name(p): _shape(p.partial_shape) for p in ports}

    def _arithmetic(self) -> str:
        """Number formats of the layers that count, such as "f32" or "int8 + f32"."""
        floats = self._compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        if self._saturates:
            return f"{floats}, as INT8 sums saturate without VNNI"
        infos = [layer.get_rt_info() for layer in self._compiled.get_runtime_model().get_ops()]
        ran = {i["runtimePrecision"].astype(str) for i in infos if i["layerType"].astype(str) in _PRODUCTS}
        rest = sorted(ran - _INTEGERS)
        return " + ".join((["int8"] if ran & _INTEGERS else []) + rest) or str(floats)


def load_openvino() -> ModuleType:
    """The package, without its telemetry.

    ``import openvino`` tells Google Analytics that it was imported, and writes an identifier into the home
    folder, unless the user has opted out.  When the package that does it is missing, OpenVINO uses a stub.

    Raises:
        UnavailableError: OpenVINO is missing or broken.
    """
    telemetry = "openvino_telemetry"
    # A copy: another thread may be importing something.
    loaded = {n: m for n, m in sys.modules.copy().items() if n.partition(".")[0] == telemetry}
    # None makes the import fail; the type of sys.modules does not know that.
    sys.modules[telemetry] = None  # type: ignore[assignment]
    try:
        return require("openvino", purpose="run a model through OpenVINO")
    finally:
        del sys.modules[telemetry]
        sys.modules.update(loaded)


def _check_device(device: str) -> None:
    if device in ("auto", "cpu"):
        return
    if device.partition(":")[0] not in ("cuda", "tensorrt", "tensorrt-rtx"):
        raise UsageError(f"--device {device}: expected auto, cpu or cuda:N")
    raise UnavailableError(
        f"--device {device}: OpenVINO runs on the CPU; use --runtime onnxruntime for a GPU, or --device cpu"
    )


def _version(package: ModuleType) -> str:
    """Such as "2026.4.1", without the build."""
    return str(package.__version__).partition("-")[0]


def _shape(shape: Any) -> list[int | str]:
    if shape.rank.is_dynamic:
        return []
    return [d.get_length() if d.is_static else "?" for d in shape]


def _reason(error: Exception) -> str:
    """OpenVINO's message in one line, without the places in its source."""
    lines = [line for line in str(error).splitlines() if not line.startswith(("Exception from ", "Check '"))]
    return textwrap.shorten(" ".join(lines), 300, placeholder=" …") or type(error).__name__
