"""From ``--runtime``, ``--precision`` and ``--device`` to the runner that serves; what "auto" stands for."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from poster_edge.errors import UnavailableError, UsageError
from poster_edge.optional import available
from poster_edge.runtime import RUNTIMES
from poster_edge.runtime.bundle import Bundle
from poster_edge.runtime.int8_sums import saturates
from poster_edge.runtime.runner import Runner

if TYPE_CHECKING:
    from poster_edge.export.engine_plugin import PluginLibrary


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
    compiled: bool = False,
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
            bundle,
            precision=precision,
            device=device,
            threads=threads,
            kernels=kernels,
            cuda_graph=cuda_graph,
            compiled=compiled,
        )
    _check_not_torchs_own(runtime, precision, kernels, cuda_graph=cuda_graph, compiled=compiled)
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


def _check_not_torchs_own(
    runtime: str, precision: str, kernels: str | None, *, cuda_graph: bool, compiled: bool
) -> None:
    """Refuse what only torch can serve."""
    asked = {
        f"--kernels {kernels}": kernels is not None,
        "--cuda-graph": cuda_graph,
        "--compile": compiled,
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
