"""The one place that knows how ``tensorrt`` 10.3 to 11 and ``tensorrt_rtx`` differ, and how to load each.

What runs on the edge uses it, so it imports neither ``onnx`` nor ``torch``.  The protocol
:class:`TensorRtModule` lists every name of the module that we use; mypy holds it, and what is done with its
objects, against the stubs of TensorRT 10.13, and a test holds both against the installed TensorRT-RTX.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol, cast

from poster_edge.errors import UnavailableError, UsageError
from poster_edge.export.engine_plugin import PluginLibrary
from poster_edge.export.gpu import visible_gpus
from poster_edge.kernels.plugin.names import NAME, NAMESPACE, VERSION
from poster_edge.optional import EXTRAS, available

if TYPE_CHECKING:
    import tensorrt as trt

TENSORRT, RTX = FLAVOURS = ("tensorrt", "tensorrt-rtx")
#: First version with everything we use (JetPack 6); JetPack 5 carries 8.6.
OLDEST = (10, 3)

#: The registry wheel that carries TensorRT-RTX's libraries, and the bindings that go with it.
_RTX_LIBRARIES_IN, _RTX_BINDINGS = "onnxruntime_ep_nv_tensorrt_rtx", "tensorrt_rtx_bindings"
#: Each needs the one before it.
_RTX_LIBRARIES = ("libcudart.so.*", "libtensorrt_rtx.so.*", "libtensorrt_onnxparser_rtx.so.*")


class TensorRtModule(Protocol):
    """What we use of the module ``tensorrt`` or ``tensorrt_rtx``, typed as TensorRT 10.13 types it."""

    __version__: str
    Builder: type[trt.Builder]
    BuilderFlag: type[trt.BuilderFlag]
    DataType: type[trt.DataType]
    Dims: type[trt.Dims]
    ExecutionContextAllocationStrategy: type[trt.ExecutionContextAllocationStrategy]
    EngineValidity: Any  # not in the stubs of 10.13
    ILogger: type[trt.ILogger]
    IProgressMonitor: type[trt.IProgressMonitor]
    LayerInformationFormat: type[trt.LayerInformationFormat]
    LayerType: type[trt.LayerType]
    MemoryPoolType: type[trt.MemoryPoolType]
    NetworkDefinitionCreationFlag: type[trt.NetworkDefinitionCreationFlag]
    OnnxParser: type[trt.OnnxParser]
    ProfilingVerbosity: type[trt.ProfilingVerbosity]
    Runtime: type[trt.Runtime]
    TensorIOMode: type[trt.TensorIOMode]
    TensorLocation: type[trt.TensorLocation]

    def get_plugin_registry(self) -> trt.IPluginRegistry:
        """What knows the plugins of this process."""

    def nptype(self, trt_type: trt.DataType) -> type[Any]:
        """NumPy's type for a tensor type."""


@dataclass
class Log:
    """What TensorRT said since the last :meth:`clear`; its threads append to it.

    Attributes:
        errors: error messages.
        warnings: warnings.
        forward: called with (severity name, message) for everything, VERBOSE included; None: nothing is forwarded.
    """

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    forward: Callable[[str, str], None] | None = None

    def clear(self) -> None:
        """Forget what was said."""
        self.errors.clear()
        self.warnings.clear()


@dataclass(frozen=True)
class TensorRt:
    """A loaded TensorRT.

    Attributes:
        module: ``tensorrt``, ``tensorrt_rtx`` or its bindings.
        flavour: one of :data:`FLAVOURS`.
        version: such as "10.13.0.35".
        logger: for every Builder, OnnxParser and Runtime of this process: TensorRT keeps the first it is given.
        log: what the logger heard.
    """

    module: TensorRtModule
    flavour: str
    version: str
    logger: trt.ILogger
    log: Log
    #: SHA-256 of the plugin libraries that were loaded: TensorRT loads each once in a process.
    plugins: set[str] = field(default_factory=set)

    @property
    def is_rtx(self) -> bool:
        """Whether this is TensorRT for RTX."""
        return self.flavour == RTX

    @property
    def title(self) -> str:
        """Such as "TensorRT-RTX 1.7.1.116"."""
        return f"{'TensorRT-RTX' if self.is_rtx else 'TensorRT'} {self.version}"

    @property
    def network_flags(self) -> int:
        """Flags of a strongly typed network: asked for on 10.x, the only kind there is on 11 and later."""
        flag = getattr(self.module.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
        return 0 if flag is None else 1 << int(flag)

    @property
    def compute_capabilities(self) -> tuple[str, ...]:
        """What TensorRT-RTX can build for, such as ("7.5", "8.0"); empty for TensorRT, which builds for its GPU."""
        if not self.is_rtx:
            return ()
        names = getattr(self.module, "ComputeCapability").__members__  # noqa: B009 - RTX only: the stubs lack it
        numbers = sorted(int(name[2:]) for name in names if name.startswith("SM"))
        return tuple(f"{n // 10}.{n % 10}" for n in numbers)

    def builder(self) -> trt.Builder:
        """A builder.

        Raises:
            UnavailableError: TensorRT cannot start here, as without a GPU; says why.
        """
        return cast("trt.Builder", self._create(self.module.Builder))

    def runtime(self) -> trt.Runtime:
        """A runtime, which opens plans.

        Raises:
            UnavailableError: TensorRT cannot start here, as without a GPU; says why.
        """
        return cast("trt.Runtime", self._create(self.module.Runtime))

    def load_plugin(self, library: PluginLibrary) -> None:
        """Make a plugin known to this process's parser, builder and runtime.

        Raises:
            UnavailableError: TensorRT does not take it, or another one of the same name was loaded before.
        """
        if library.sha256 in self.plugins:
            return
        self.log.clear()
        registry = self.module.get_plugin_registry()
        if registry.load_library(str(library.path)) is None:
            reason = self.log.errors[-1] if self.log.errors else "no reason given"
            if registry.get_creator(NAME, VERSION, NAMESPACE) is not None:
                reason = "another plugin of this name was loaded in this process before"
            raise UnavailableError(f"{self.title} does not load the plugin {library.path}: {reason}")
        self.plugins.add(library.sha256)

    def set_compute_capabilities(self, config: trt.IBuilderConfig, wanted: Iterable[str]) -> None:
        """Say what a TensorRT-RTX plan is for; "current" stands for this machine's GPU.

        Raises:
            UsageError: TensorRT itself builds for the GPU it runs on and takes none.
            UnavailableError: this version cannot build for one of them.
        """
        names = list(dict.fromkeys(wanted))
        if not names:
            return
        if not self.is_rtx:
            raise UsageError("TensorRT builds for the GPU it runs on; compute capabilities go with tensorrt-rtx")
        for name in names:
            if name != "current" and name not in self.compute_capabilities:
                known = ", ".join(self.compute_capabilities)
                raise UnavailableError(f"{self.title} cannot build for compute capability {name}; it knows {known}")
        # The stubs describe TensorRT, which has none of this.
        rtx: Any = config
        members = getattr(self.module, "ComputeCapability")  # noqa: B009
        rtx.num_compute_capabilities = len(names)
        for index, name in enumerate(names):
            member = "CURRENT" if name == "current" else "SM" + name.replace(".", "")
            rtx.set_compute_capability(getattr(members, member), index)

    def _create(self, kind: Callable[[trt.ILogger], Any]) -> Any:
        self.log.clear()
        try:
            return kind(self.logger)
        except (TypeError, RuntimeError) as error:
            # pybind11 reports a null pointer as a TypeError that says nothing; the log has the reason.
            reason = self.log.errors[-1] if self.log.errors else str(error).splitlines()[0]
            hint = "" if visible_gpus() else "; no NVIDIA GPU is visible here"
            raise UnavailableError(f"{self.title} cannot start: {reason}{hint}") from error


@cache
def load(flavour: str) -> TensorRt:
    """Load TensorRT or TensorRT-RTX, once per process.

    Args:
        flavour: "tensorrt" or "tensorrt-rtx".

    Raises:
        UnavailableError: it is not installed, broken or too old; says what to do.
    """
    if flavour not in FLAVOURS:
        raise ValueError(f"flavour {flavour!r}, expected one of {', '.join(FLAVOURS)}")
    module = cast(TensorRtModule, _load_rtx() if flavour == RTX else _load_tensorrt())
    log = Log()
    return TensorRt(module, flavour, module.__version__, _logger(module, log), log)


def installed(flavour: str) -> bool:
    """Tell whether :func:`load` would find something, without loading it."""
    if flavour == TENSORRT:
        return available("tensorrt")
    return available("tensorrt_rtx") or (available(_RTX_BINDINGS) and available(_RTX_LIBRARIES_IN))


def _load_tensorrt() -> ModuleType:
    module = _import("tensorrt", TENSORRT)
    version = _numbers(module.__version__)
    if version < OLDEST:
        raise UnavailableError(
            f"TensorRT {module.__version__} is too old: models carry their precision in the graph, which needs "
            f"TensorRT {'.'.join(map(str, OLDEST))} (JetPack 6) or later; on JetPack 5 use --runtime onnxruntime"
        )
    return module


def _load_rtx() -> ModuleType:
    if available("tensorrt_rtx"):
        return _import("tensorrt_rtx", RTX)
    if not (available(_RTX_BINDINGS) and available(_RTX_LIBRARIES_IN)):
        raise UnavailableError(
            f"TensorRT-RTX is not installed: pip install 'poster-edge[{EXTRAS['tensorrt_rtx']}]', or its libraries and "
            "bindings alone (Linux x86-64): pip install --no-deps onnxruntime-ep-nv-tensorrt-rtx-cu13==0.5.0 "
            "tensorrt-rtx-cu13-bindings==1.7.1.116"
        )
    for pattern in _RTX_LIBRARIES:
        _open_library(_rtx_library(pattern))
    return _import(_RTX_BINDINGS, RTX)


def _rtx_library(pattern: str) -> Path:
    """A library of TensorRT-RTX's wheel.

    Raises:
        UnavailableError: it is not there.
    """
    spec = importlib.util.find_spec(_RTX_LIBRARIES_IN)
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent
    # The longest name is the file itself; shorter ones are links, which a wheel copies.
    names = sorted(folder.glob(pattern), key=lambda p: len(p.name))
    if not names:
        raise UnavailableError(f"TensorRT-RTX is incomplete: {folder} has no {pattern}; install it again")
    return names[-1]


def parser_library(flavour: str) -> tuple[str, Path] | None:
    """The library that a parser opens by name when a graph asks for a plugin, where no search path has that name.

    Returns:
        its name, and the file to be found under it; None where the loader finds it by itself.
    """
    if flavour == TENSORRT or available("tensorrt_rtx") or not available(_RTX_LIBRARIES_IN):
        return None
    return "libtensorrt_rtx.so", _rtx_library("libtensorrt_rtx.so.*")


def _open_library(path: Path) -> None:
    try:
        ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        raise UnavailableError(f"TensorRT-RTX cannot be loaded: {error}") from error


def _import(name: str, flavour: str) -> ModuleType:
    extra = f"pip install 'poster-edge[{flavour}]'"
    if not available(name):
        where = "a Jetson has it from JetPack (python3-libnvinfer); elsewhere " if flavour == TENSORRT else ""
        raise UnavailableError(f"{name} is not installed: {where}{extra}")
    try:
        return importlib.import_module(name)
    except Exception as error:  # its own __init__ raises FileNotFoundError, ImportError or OSError
        raise UnavailableError(f"{name} is installed but cannot be loaded ({error}); {extra}") from error


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"\d+", version)[:2])


def _logger(module: TensorRtModule, log: Log) -> trt.ILogger:
    base: Any = module.ILogger
    severities = base.Severity

    class Logger(base):  # type: ignore[misc]
        """Keeps errors and warnings; an exception here would end the process, so nothing may raise."""

        def __init__(self) -> None:
            super().__init__()

        def log(self, severity: Any, msg: str) -> None:
            if severity <= severities.ERROR:
                log.errors.append(msg)
            elif severity == severities.WARNING:
                log.warnings.append(msg)
            if log.forward is not None:
                log.forward(severity.name, msg)

    return cast("trt.ILogger", Logger())
