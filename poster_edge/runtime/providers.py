"""onnxruntime's execution providers: which one a ``--device`` names, what it is asked for, and whether it runs.

onnxruntime replaces a provider that cannot start by the CPU, and gives the CPU every node that the provider
does not take, both without a word.  So everything is looked at: the package, the GPU, the session's providers,
and which provider got the nodes that do the arithmetic.

Sources: onnxruntime.ai, "CUDA" and "TensorRT Execution Provider"; NVIDIA's TensorRT-RTX-EP-ABI, "Provider
options".  Without ``trt_fp16_enable`` and ``trt_int8_enable`` the TensorRT provider builds strongly typed
networks (``TensorrtExecutionProvider::Compile``), as TensorRT-RTX always does: the graph's types are what runs.
"""

from __future__ import annotations

import ctypes
import importlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TextIO, cast

import onnxruntime as ort

from poster_edge.errors import UnavailableError, UsageError
from poster_edge.export.gpu import Gpu, find_gpu, visible_gpus
from poster_edge.optional import available

#: Smallest, best and largest batch of a TensorRT engine; more images go through in several batches.
PROFILE = (1, 4, 16)
_RTX_PACKAGE = "onnxruntime_ep_nv_tensorrt_rtx"
#: Kinds of nodes that do nearly all of the arithmetic, the fused ones of onnxruntime among them.
_PRODUCTS = ("Conv", "Gemm", "MatMul", "Attention", "LayerNormalization")


@dataclass(frozen=True)
class Provider:
    """One execution provider.

    Attributes:
        kind: as ``--device`` spells it: "cpu", "cuda", "tensorrt" or "tensorrt-rtx".
        name: onnxruntime's.
        label: for people.
        placement: the form of INT8 that it computes in integers, "" where it has no such kernels.
        install: how to get it.
        index: of the GPU.
    """

    kind: str
    name: str
    label: str
    placement: str
    install: str = ""
    index: int = 0

    @property
    def builds_engines(self) -> bool:
        """Whether it compiles the graph for a range of batches and can keep the result."""
        return self.kind.startswith("tensorrt")


PROVIDERS = {
    p.kind: p
    for p in (
        Provider("cpu", "CPUExecutionProvider", "CPU", "inputs-outputs"),
        Provider(
            "cuda",
            "CUDAExecutionProvider",
            "CUDA",
            "",
            "pip uninstall onnxruntime && pip install 'onnxruntime-gpu[cuda,cudnn]'",
        ),
        Provider(
            "tensorrt",
            "TensorrtExecutionProvider",
            "TensorRT",
            "inputs",
            "pip uninstall onnxruntime && pip install 'onnxruntime-gpu[cuda,cudnn]' tensorrt",
        ),
        Provider(
            "tensorrt-rtx",
            "NvTensorRTRTXExecutionProvider",
            "TensorRT-RTX",
            "inputs",
            "pip install --no-deps onnxruntime-ep-nv-tensorrt-rtx-cu13",
        ),
    )
}


def find_provider(device: str, precision: str) -> Provider:
    """The provider that a ``--device`` names.

    "auto" is CUDA where onnxruntime has it and a GPU is visible, else the CPU; INT8 stays on the CPU, whose
    kernels compute it in integers.

    Raises:
        UsageError: the device is spelled in no known way.
        UnavailableError: INT8 on CUDA, which would be computed in float.
    """
    kind, colon, number = device.partition(":")
    if device == "auto":
        cuda = precision != "int8" and PROVIDERS["cuda"].name in _listed() and bool(visible_gpus())
        return PROVIDERS["cuda" if cuda else "cpu"]
    if kind not in PROVIDERS or (colon and (kind == "cpu" or not number.isdecimal())):
        raise UsageError(f"--device {device}: expected auto, cpu, cuda:N, tensorrt:N or tensorrt-rtx:N")
    if kind == "cuda" and precision == "int8":
        raise UnavailableError(
            f"--device {device}: onnxruntime's CUDA provider computes INT8 models in float; use --device tensorrt:0, "
            "--device cpu or --precision fp16"
        )
    known = PROVIDERS[kind]
    return Provider(known.kind, known.name, known.label, known.placement, known.install, int(number or 0))


def require_provider(provider: Provider) -> Gpu | None:
    """Make sure that a provider can be asked for here; registers TensorRT-RTX's library.

    Returns:
        The GPU it will run on, None for the CPU.

    Raises:
        UnavailableError: says what is missing and what to do.
    """
    check_present(provider)
    if provider.kind == "tensorrt-rtx":
        register_rtx()
    return None if provider.kind == "cpu" else find_gpu(provider.index)


def check_present(provider: Provider) -> None:
    """Make sure that nothing is missing, without loading anything.

    Raises:
        UnavailableError: says what is missing and what to do.
    """
    if lack := missing(provider):
        what, remedy = lack
        raise UnavailableError(f"onnxruntime on {provider.label}: {what}; {remedy}, or use --device cpu")


def missing(provider: Provider) -> tuple[str, str] | None:
    """What a provider lacks here and what to do about it; None where nothing can be seen to be missing."""
    if provider.kind == "cpu":
        return None
    if provider.kind == "tensorrt-rtx":
        if not available(_RTX_PACKAGE):
            return "its plugin is not installed", provider.install
    elif provider.name not in _listed():
        have = ", ".join(n.removesuffix("ExecutionProvider") for n in _listed())
        return f"this onnxruntime has no {provider.label} provider (it has {have})", provider.install
    indices = [g.index for g in visible_gpus()]
    if not indices:
        return "no NVIDIA GPU is visible here", "install NVIDIA's driver (libcuda.so.1) on a machine with a GPU"
    if provider.index not in indices:
        return f"there is no GPU {provider.index}", f"take one of {indices}"
    return None


@cache
def register_rtx() -> None:
    """Register the plugin library of TensorRT-RTX with onnxruntime, once in a process.

    Raises:
        UnavailableError: it cannot be loaded, as without a driver.
    """
    provider = PROVIDERS["tensorrt-rtx"]
    try:
        with clean_stdout():
            package = importlib.import_module(_RTX_PACKAGE)
            folder = Path(str(package.__file__)).parent
            # The package loads all it needs but this one.
            for library in sorted(folder.glob("libcudart.so.*")):
                ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
            ort.register_execution_provider_library(provider.name, package.get_library_path())
    except Exception as error:  # onnxruntime's exceptions share no class; the package's own are ImportError, OSError
        reason = one_line(error).rpartition(" with error: ")[2]
        hint = "; is an NVIDIA driver installed?" if "libcuda.so" in reason else ""
        raise UnavailableError(
            f"onnxruntime on {provider.label}: the plugin cannot be loaded: {reason}{hint}"
        ) from error


def provider_options(provider: Provider, *, image: str, size: int, cache_folder: Path | None) -> dict[str, str]:
    """What a provider is told.

    Args:
        provider: the provider.
        image: name of the graph's input, (N, 3, S, S).
        size: S.
        cache_folder: private folder for engines and timings; None: nothing is kept.
    """
    if provider.kind == "cpu":
        return {}
    if provider.kind == "cuda":
        # TF32 has ten bits of FP32's 23; an exhaustive search would start anew for every batch size.
        return {"device_id": str(provider.index), "use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}
    prefix = "nv" if provider.kind == "tensorrt-rtx" else "trt"
    options = {
        f"{prefix}_profile_{name}_shapes": f"{image}:{batch}x3x{size}x{size}"
        for name, batch in zip(("min", "opt", "max"), PROFILE, strict=True)
    }
    if provider.kind == "tensorrt-rtx":
        return options | ({"nv_runtime_cache_path": str(cache_folder)} if cache_folder else {})
    options |= {"device_id": str(provider.index), "trt_fp16_enable": "0", "trt_int8_enable": "0"}
    # A context model names an engine to load from anywhere; none is written, and none is read: see onnx_bytes.
    options["trt_dump_ep_context_model"] = "0"
    for what in ("engine", "timing"):
        options[f"trt_{what}_cache_enable"] = "1" if cache_folder else "0"
        if cache_folder:
            options[f"trt_{what}_cache_path"] = str(cache_folder)
    return options


def open_session(
    data: bytes, settings: ort.SessionOptions, provider: Provider, options: dict[str, str]
) -> ort.InferenceSession:
    """A session on this provider alone (and the CPU, for nodes that it leaves), which nothing replaces.

    Raises:
        UnavailableError: onnxruntime took another provider.
        Exception: of many kinds: the model or the provider is broken.
    """
    if _can_tell_assignment():
        settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    elif provider.kind != "cpu":
        settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    providers: list[tuple[str, dict[str, str]]] | None = [(provider.name, options)]
    with clean_stdout():
        _preload(provider)
        if provider.name not in ort.get_available_providers():
            settings.add_provider_for_devices([_ep_device(provider)], options)
            providers = None
        session = ort.InferenceSession(data, settings, providers=providers, enable_fallback=0)
    session.disable_fallback()
    used = session.get_providers()
    if provider.name not in used or (provider.kind != "cpu" and used[0] != provider.name):
        raise UnavailableError(
            f"onnxruntime on {provider.label}: it could not start and onnxruntime took {used[0]} instead"
            f"{_why(provider)}; or use --device cpu"
        )
    return session


def elsewhere(session: ort.InferenceSession, provider: Provider) -> Counter[str]:
    """Kinds of the nodes that another provider got, with their number; empty where an old version cannot tell.

    Raises:
        UnavailableError: nodes that do the arithmetic are among them.
    """
    if not _can_tell_assignment():
        return Counter()
    other: Counter[str] = Counter()
    for part in session.get_provider_graph_assignment_info():
        if part.ep_name != provider.name:
            other.update(node.op_type for node in part.get_nodes())
    if lost := {kind: n for kind, n in other.items() if any(p in kind for p in _PRODUCTS)}:
        what = ", ".join(f"{n} {kind}" for kind, n in sorted(lost.items()))
        raise UnavailableError(
            f"onnxruntime on {provider.label}: it does not take {what} of this model, which would run on the CPU; "
            "use --device cpu"
        )
    return other


@contextmanager
def clean_stdout() -> Iterator[None]:
    """Within the block what onnxruntime's Python code prints goes to standard error."""
    import sys

    with redirect_stdout(cast(TextIO, sys.stderr)):
        yield


def one_line(error: Exception) -> str:
    """First line of an exception's text."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _listed() -> list[str]:
    """Providers that this onnxruntime knows: compiled in, or registered as plugins when it was imported."""
    listed = list(ort.get_available_providers())
    plugins = ort.get_ep_devices() if hasattr(ort, "get_ep_devices") else []
    return listed + [n for n in dict.fromkeys(d.ep_name for d in plugins) if n not in listed]


def _can_tell_assignment() -> bool:
    return hasattr(ort.InferenceSession, "get_provider_graph_assignment_info")


def _preload(provider: Provider) -> None:
    """Load CUDA's and TensorRT's libraries from their wheels, where they are in no folder of the system's."""
    if provider.kind in ("cuda", "tensorrt") and hasattr(ort, "preload_dlls"):
        with suppress(Exception):  # what is missing shows when the provider starts
            ort.preload_dlls()
    if provider.kind == "tensorrt" and available("tensorrt"):
        with suppress(Exception):
            importlib.import_module("tensorrt")


def _ep_device(provider: Provider) -> Any:
    devices = [d for d in ort.get_ep_devices() if d.ep_name == provider.name]
    if provider.index >= len(devices):
        needs = "; it needs compute capability 8.6, 8.9 or 12.0" if provider.kind == "tensorrt-rtx" else ""
        taken = f"it takes {len(devices)} of the GPUs here, not GPU {provider.index}{needs}"
        raise UnavailableError(f"onnxruntime on {provider.label}: {taken}; or use --device cpu")
    return devices[provider.index]


def _why(provider: Provider) -> str:
    """What keeps a provider's library from loading, where that is the reason."""
    stem = {"cuda": "cuda", "tensorrt": "tensorrt"}.get(provider.kind)
    for library in Path(ort.__file__).parent.glob(f"capi/libonnxruntime_providers_{stem}.so"):
        try:
            ctypes.CDLL(str(library))
        except OSError as error:
            return f" ({error})"
    return ""
