"""Builds a TensorRT plan from any ONNX file; the graph says the precision, the builder is told none.

The network is strongly typed on every version.  A build runs in a thread of its own, so that Ctrl-C is
heard: the progress monitor then tells the builder to stop at its next step.
"""

from __future__ import annotations

import resource
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from poster_edge.errors import InputError, PosterEdgeError, UnavailableError
from poster_edge.export.engine_network import NetworkSummary, summarise
from poster_edge.export.engine_spec import EngineSpec
from poster_edge.export.gpu import visible_gpus
from poster_edge.export.onnx_bytes import check_self_contained
from poster_edge.export.tensorrt_api import TensorRt
from poster_edge.files import write_atomic

if TYPE_CHECKING:
    import tensorrt as trt

#: Called with the fraction done, 0 to 1, and the phase's name, from the builder's thread.
Progress = Callable[[float, str], None]
#: TensorRT has one log for the whole process; two builds at once would mix theirs.
_ONE_BUILD = threading.Lock()
_POLL_S = 0.1


@dataclass(frozen=True)
class BuiltEngine:
    """A plan and what is known about it.

    Attributes:
        plan: what TensorRT deserialises: executable code, to be trusted only where it was built.
        spec: how it was built.
        tensorrt: version that built it.
        seconds: that parsing and building took.
        peak_rss_mb: largest memory of this process so far, in MB.
        warnings: of the parser and the builder, each once.
        network: what was parsed.
    """

    plan: bytes
    spec: EngineSpec
    tensorrt: str
    seconds: float
    peak_rss_mb: float
    warnings: tuple[str, ...]
    network: NetworkSummary


def build_engine(tensorrt: TensorRt, onnx: bytes, spec: EngineSpec, *, progress: Progress | None = None) -> BuiltEngine:
    """Build a plan.

    Args:
        tensorrt: see :func:`poster_edge.export.tensorrt_api.load`.
        onnx: content of an ONNX file, its weights inside.
        spec: how to build.
        progress: is told how far the build is.

    Raises:
        InputError: no ONNX graph, or one whose shapes do not go with the profile.
        UnavailableError: TensorRT cannot start, load the plugin, read an operator or build; names the nodes.
        KeyboardInterrupt: the build was stopped.
    """
    check_model(onnx)
    with _ONE_BUILD:
        try:
            return _build(tensorrt, onnx, spec, progress)
        except UnicodeDecodeError as error:
            # The bindings hand names over as UTF-8 and raise this wherever one is not.
            raise InputError("not a model that TensorRT is given: a name in it is no text (UTF-8)") from error


def check_model(onnx: bytes) -> None:
    """Refuse what no parser is to be given: no ONNX graph, or one that asks for data outside of the file.

    Raises:
        InputError: says which.
    """
    try:
        check_self_contained(onnx)
    except ValueError as error:
        raise InputError(f"not a model that TensorRT is given: {error}") from error


def _build(tensorrt: TensorRt, onnx: bytes, spec: EngineSpec, progress: Progress | None) -> BuiltEngine:
    start = time.perf_counter()
    if spec.plugin is not None:
        tensorrt.load_plugin(spec.plugin)
    builder = tensorrt.builder()
    network = builder.create_network(tensorrt.network_flags)
    # The network refers to weights that the parser owns: it must live until the plan is built.
    parser = tensorrt.module.OnnxParser(network, tensorrt.logger)
    if not parser.parse(onnx):
        raise UnavailableError(f"{tensorrt.title} cannot read this model: {_parser_errors(parser)}")
    config = _configure(tensorrt, builder, network, spec)
    cache = _open_timing_cache(config, spec)
    monitor = _monitor(tensorrt, progress)
    config.progress_monitor = monitor
    plan = _run(lambda: builder.build_serialized_network(network, config), monitor)
    if plan is None:
        raise UnavailableError(f"{tensorrt.title} cannot build this model: {_why(tensorrt)}")
    if cache is not None and spec.timing_cache is not None:
        write_atomic(spec.timing_cache, bytes(_buffer(cache.serialize())))
    return BuiltEngine(
        plan=bytes(_buffer(plan)),
        spec=spec,
        tensorrt=tensorrt.version,
        seconds=time.perf_counter() - start,
        peak_rss_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6,
        warnings=tuple(dict.fromkeys(tensorrt.log.warnings)),
        network=summarise(tensorrt, network),
    )


def _buffer(memory: Any) -> Any:
    """Host memory of TensorRT, which is a buffer though no stub says so."""
    return memory


def _parser_errors(parser: trt.OnnxParser) -> str:
    """Every error with its node, in one line."""
    texts = []
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        where = f"{error.node_operator()} '{error.node_name()}'" if error.node_operator() else "the file"
        texts.append(f"{where}: {' '.join(error.desc().split())}")
    return "; ".join(dict.fromkeys(texts)) or "no reason given"


def _configure(
    tensorrt: TensorRt, builder: trt.Builder, network: trt.INetworkDefinition, spec: EngineSpec
) -> trt.IBuilderConfig:
    config = builder.create_builder_config()
    module = tensorrt.module
    if spec.workspace_mib is not None:
        config.set_memory_pool_limit(module.MemoryPoolType.WORKSPACE, spec.workspace_mib << 20)
    if spec.detailed:
        config.profiling_verbosity = module.ProfilingVerbosity.DETAILED
    # Where there is this flag (TensorRT-RTX), an engine built without it may allocate while it runs, and then
    # no CUDA graph can be captured.
    user_allocation = getattr(module.BuilderFlag, "REQUIRE_USER_ALLOCATION", None)
    if user_allocation is not None:
        config.set_flag(user_allocation)
    tensorrt.set_compute_capabilities(config, spec.compute_capabilities)
    profile = builder.create_optimization_profile()
    dynamic = [_add_shape(tensorrt, profile, network.get_input(i), spec) for i in range(network.num_inputs)]
    if any(dynamic):
        config.add_optimization_profile(profile)
    return config


def _add_shape(tensorrt: TensorRt, profile: trt.IOptimizationProfile, image: trt.ITensor, spec: EngineSpec) -> bool:
    """Batch sizes of one input; False where its shape is fixed."""
    shape, sizes = [image.shape[i] for i in range(len(image.shape))], spec.profile
    if -1 in shape[1:] or not shape:
        raise InputError(f"input '{image.name}' has the shape {shape}; only the batch, in front, may be open")
    if shape[0] != -1:
        if not sizes.min == sizes.max == shape[0]:
            raise InputError(f"input '{image.name}' is fixed at batch {shape[0]}; batches {sizes} were asked for")
        return False
    dims = tensorrt.module.Dims
    low, best, high = (dims([n, *shape[1:]]) for n in (sizes.min, sizes.opt, sizes.max))
    profile.set_shape(image.name, low, best, high)
    return True


def _open_timing_cache(config: trt.IBuilderConfig, spec: EngineSpec) -> trt.ITimingCache | None:
    """Measured kernels of earlier builds; the builder asks for a GPU as soon as it is given any."""
    if spec.timing_cache is None or not visible_gpus():
        return None
    old = spec.timing_cache.read_bytes() if spec.timing_cache.is_file() else b""
    cache = config.create_timing_cache(old)
    if cache is None or not config.set_timing_cache(cache, False):
        # Of another version or GPU: start a new one.
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    return cache


def _why(tensorrt: TensorRt) -> str:
    """The builder's errors in one line, and what to do about those we know."""
    text = "; ".join(" ".join(line.split()) for line in dict.fromkeys(tensorrt.log.errors)) or "no reason given"
    if "FP32 GEMM is not supported" in text:
        return f"it has no FP32 matrix products for compute capability 7.5: use --half or --int8 ({text})"
    return text


def _run(build: Callable[[], trt.IHostMemory], monitor: Any) -> trt.IHostMemory | None:
    """Build in a thread while this one waits for it and for Ctrl-C."""
    result: list[trt.IHostMemory | None] = []
    failure: list[Exception] = []

    def work() -> None:
        try:
            result.append(build())
        except Exception as error:
            failure.append(error)

    thread = threading.Thread(target=work, name="tensorrt-build", daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(_POLL_S)
    except KeyboardInterrupt:
        monitor.cancelled = True
        thread.join()
        raise
    if failure:
        raise PosterEdgeError(f"TensorRT stopped: {failure[0]}") from failure[0]
    return result[0]


class Phases:
    """The builder's phases within phases, as one fraction that never falls."""

    def __init__(self) -> None:
        #: Name -> parent's name, steps, steps done.
        self._open: dict[str, tuple[str | None, int, int]] = {}
        self._furthest = 0.0

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """A phase begins."""
        self._open[name] = (parent, max(1, steps), 0)

    def step(self, name: str, step: int) -> None:
        """Step ``step``, from 0, of a phase is done."""
        if name in self._open:
            parent, steps, _ = self._open[name]
            self._open[name] = (parent, steps, min(steps, step + 1))

    def finish(self, name: str) -> None:
        """A phase ends."""
        parent, _, _ = self._open.pop(name, (None, 1, 1))
        if parent is None:
            self._furthest = 1.0

    @property
    def fraction(self) -> float:
        """How far the whole is, 0 to 1."""
        inner = 0.0
        for _, steps, done in reversed(self._open.values()):
            inner = min(1.0, (done + inner) / steps)
        self._furthest = max(self._furthest, inner)
        return self._furthest


def _monitor(tensorrt: TensorRt, progress: Progress | None) -> Any:
    base: Any = tensorrt.module.IProgressMonitor
    phases = Phases()

    class Monitor(base):  # type: ignore[misc]
        """Its methods are called from the builder's threads and must not raise."""

        def __init__(self) -> None:
            super().__init__()
            self.cancelled = False

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            phases.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            phases.step(phase_name, step)
            if progress is not None:
                progress(phases.fraction, phase_name)
            return not self.cancelled

        def phase_finish(self, phase_name: str) -> None:
            phases.finish(phase_name)

    return Monitor()
