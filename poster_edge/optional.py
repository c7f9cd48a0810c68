"""Lazy loading of optional packages, each named once together with the extra that brings it."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

from poster_edge.errors import UnavailableError

#: Import name -> extra of this project that installs it.
EXTRAS: dict[str, str] = {
    "torch": "train",
    "safetensors": "train",
    # Python brings it from 3.11 on, as tomllib.
    "tomli": "train",
    "tensorboard": "tensorboard",
    # The module that the package scikit-learn brings.
    "sklearn": "figures",
    "onnx": "export",
    "onnxscript": "export",
    "openvino": "openvino",
    # The module that the package nvidia-ml-py brings.
    "pynvml": "nvml",
    "tensorrt": "tensorrt",
    "tensorrt_rtx": "tensorrt-rtx",
    # ``cuda`` alone is a namespace that several packages share.
    "cuda.bindings": "tensorrt",
}


def available(name: str) -> bool:
    """Tell whether the package can be found, without importing it."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return False
    # A folder that happens to bear the name is found too, as an empty package without an origin.
    return spec is not None and spec.origin is not None


def require(name: str, *, purpose: str) -> ModuleType:
    """Import an optional package.

    Args:
        name: import name; submodules (``torch.nn``) are allowed.
        purpose: what it is needed for, put into the message: "train a model".

    Raises:
        UnavailableError: the package is missing or broken; names the extra that brings it.
    """
    package = next((p for p in EXTRAS if f"{name}.".startswith(f"{p}.")), name.partition(".")[0])
    try:
        if not available(package):
            raise ModuleNotFoundError(f"No module named '{package}'")
        return importlib.import_module(name)
    except ImportError as error:
        extra = EXTRAS.get(package)
        remedy = f"pip install 'poster-edge[{extra}]'" if extra else f"pip install {package}"
        reason = "is not installed" if not available(package) else f"cannot be loaded ({error})"
        raise UnavailableError(f"{package} is needed to {purpose} but {reason}: {remedy}") from error
