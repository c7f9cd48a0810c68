"""The checks of ``poster-edge doctor``; each looks at one part and never raises."""

from __future__ import annotations

import importlib
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from poster_edge import __version__
from poster_edge.errors import PosterEdgeError
from poster_edge.optional import EXTRAS, available

_OPENCV = ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")


@dataclass(frozen=True)
class Check:
    """Result of one check.

    Attributes:
        name: of the part.
        state: "ok"; "absent": something optional is missing; "broken": ``run`` cannot work.
        found: what is there.
        remedy: what to do, or "".
    """

    name: str
    state: str
    found: str
    remedy: str = ""


def all_checks() -> list[Check]:
    """Every check, in the order in which they are shown."""
    checks: tuple[Callable[[], Check], ...] = (
        _machine,
        _opencv,
        _onnxruntime,
        _openvino,
        _default_model,
        _yunet,
        _haar,
        _cameras,
        *(_optional(name, purpose) for name, purpose in _OPTIONAL.items()),
    )
    from poster_edge.cli.checks_gpu import gpu_checks
    from poster_edge.cli.checks_providers import provider_checks

    return [*(check() for check in checks), *gpu_checks(), *provider_checks()]


#: Optional package -> what it is for; :data:`poster_edge.optional.EXTRAS` says which extra brings it.
_OPTIONAL = {
    "torch": "train, convert, export",
    "safetensors": "train, convert, export",
    "onnx": "export",
    "onnxscript": "export",
}


def _machine() -> Check:
    model = Path("/proc/device-tree/model")
    board = model.read_bytes().rstrip(b"\0").decode(errors="replace") if model.is_file() else ""
    where = board or f"{platform.system()} {platform.machine()}"
    return Check(
        "poster-edge", "ok", f"{__version__}, Python {platform.python_version()}, {where}, {os.cpu_count()} CPUs"
    )


def _opencv() -> Check:
    flavours = [n for n in _OPENCV if _version(n)]
    try:
        cv2 = importlib.import_module("cv2")
    except ImportError as error:
        remedy = "pip install 'poster-edge[opencv]', or on a Jetson: apt install python3-opencv"
        return Check("opencv", "broken", f"{error}", remedy)
    info = cv2.getBuildInformation()
    gui = "headless" if "GUI:" not in info or "GUI:                           NONE" in info else "with windows"
    found = f"{cv2.__version__}, {gui}, GStreamer {'yes' if _enabled(info, 'GStreamer') else 'no'}"
    if len(flavours) > 1:
        keep = "pip uninstall -y " + " ".join(flavours) + f" && pip install {flavours[-1]}"
        return Check("opencv", "absent", f"{found}; several flavours overwrite each other: {', '.join(flavours)}", keep)
    if int(cv2.__version__.split(".")[0]) != 4:
        return Check("opencv", "broken", found, "pip install 'opencv-python-headless>=4.12,<5'")
    return Check("opencv", "ok", found)


def _enabled(info: str, name: str) -> bool:
    return any(name in line and "YES" in line for line in info.splitlines())


def _onnxruntime() -> Check:
    try:
        ort = importlib.import_module("onnxruntime")
    except ImportError as error:
        return Check("onnxruntime", "broken", str(error), "pip install onnxruntime")
    providers = ", ".join(p.removesuffix("ExecutionProvider") for p in ort.get_available_providers())
    return Check("onnxruntime", "ok", f"{ort.__version__}: {providers}")


def _openvino() -> Check:
    from poster_edge.runtime.openvino_runner import load_openvino

    remedy = f"pip install 'poster-edge[{EXTRAS['openvino']}]'"
    if not available("openvino"):
        return Check("openvino", "absent", "needed for: --runtime openvino", remedy)
    try:
        package = load_openvino()
        devices = ", ".join(package.Core().available_devices)
    except (PosterEdgeError, RuntimeError) as error:
        return Check("openvino", "absent", " ".join(str(error).split()), "pip uninstall openvino, then " + remedy)
    return Check("openvino", "ok", f"{_version('openvino')}: {devices}")


def _default_model() -> Check:
    from poster_edge.config import DEFAULT_MODEL
    from poster_edge.runtime.bundle import load_bundle

    try:
        bundle = load_bundle(DEFAULT_MODEL)
        bundle.verify()
    except PosterEdgeError as error:
        return Check("default model", "broken", str(error), "install poster-edge again")
    size = sum(a.bytes for a in bundle.manifest.artefacts.values())
    return Check("default model", "ok", f"{DEFAULT_MODEL}, {size / 1e6:.1f} MB, hashes match")


def _yunet() -> Check:
    name = "YuNet face detector"
    try:
        from poster_edge.vision.yunet import YuNet, find_yunet_model

        path = find_yunet_model(None)
        if path is None:
            return Check(name, "absent", "Haar is used instead", "pip install 'poster-edge[faces]'")
        YuNet(path)
    except PosterEdgeError as error:
        return Check(name, "broken", str(error), "correct what it names: POSTER_EDGE_YUNET, or the package")
    except ImportError as error:
        return Check(name, "broken", str(error), "see opencv")
    return Check(name, "ok", str(path))


def _haar() -> Check:
    from poster_edge.vision.haar import find_cascade

    try:
        path = find_cascade()
    except ImportError:
        path = None
    if path is None:
        return Check("Haar face detector", "absent", "no cascade found", "install OpenCV 4.x with its data")
    return Check("Haar face detector", "ok", str(path))


def _cameras() -> Check:
    devices = sorted(str(p) for p in Path("/dev").glob("video*"))
    if not devices:
        return Check("cameras", "absent", "no /dev/video*", "connect a camera, or run on files")
    return Check("cameras", "ok", ", ".join(devices))


def _optional(name: str, purpose: str) -> Callable[[], Check]:
    def check() -> Check:
        if not available(name):
            return Check(name, "absent", f"needed for: {purpose}", f"pip install 'poster-edge[{EXTRAS[name]}]'")
        loaded = sys.modules.get(name)
        found = _version(name.replace("_", "-")) or str(getattr(loaded, "__version__", "installed"))
        return Check(name, "ok", found)

    return check


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""
