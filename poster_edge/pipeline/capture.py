"""Opens cameras and streams with timeouts, and says in one line why one cannot be opened."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import cv2

from poster_edge.errors import UnavailableError
from poster_edge.pipeline.quiet import hush_opencv

_TIMEOUT_MS = 2000
_CSI = (
    "nvarguscamerasrc sensor-id={sensor} ! video/x-raw(memory:NVMM),width=1280,height=720 ! nvvidconv ! "
    "video/x-raw,format=BGRx ! videoconvert ! video/x-raw,format=BGR ! appsink drop=true max-buffers=1 sync=false"
)
_PASSWORD = re.compile(r"//[^/@\s]+@")


def masked(spec: str) -> str:
    """An address as it may be shown: without user name and password."""
    return _PASSWORD.sub("//***@", spec)


def open_capture(spec: str) -> cv2.VideoCapture:
    """Open a camera by number, device path or address.

    Raises:
        UnavailableError: it cannot be opened here; says why and what to do.
    """
    hush_opencv()
    if spec.startswith("csi://"):
        return _open_csi(spec)
    if "://" in spec and not spec.startswith("v4l2://"):
        return _open_stream(spec)
    return _open_device(spec.removeprefix("v4l2://"))


def _open_stream(spec: str) -> cv2.VideoCapture:
    options = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, _TIMEOUT_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, _TIMEOUT_MS]
    capture = cv2.VideoCapture(spec, cv2.CAP_FFMPEG, options)
    if not capture.isOpened():
        raise UnavailableError(
            f"stream {masked(spec)} cannot be opened: check the address, the password and that its server runs"
        )
    return capture


def _open_device(spec: str) -> cv2.VideoCapture:
    # V4L2 knows no open timeout; this bounds its wait for a picture (s).
    os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", "2")
    linux = sys.platform.startswith("linux")
    device = f"/dev/video{spec}" if spec.isdigit() else spec
    if linux and not Path(device).exists():
        raise UnavailableError(f"camera {spec}: there is no {device}; {_cameras()}")
    what: int | str = int(spec) if spec.isdigit() else os.path.realpath(device)
    capture = cv2.VideoCapture(what, cv2.CAP_V4L2 if linux else cv2.CAP_ANY)
    if not capture.isOpened():
        denied = linux and not os.access(device, os.R_OK | os.W_OK)
        why = "no permission (join the group 'video')" if denied else "is it a camera, and free?"
        raise UnavailableError(f"camera {spec} cannot be opened: {why}; {_cameras()}")
    capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
    return capture


def _open_csi(spec: str) -> cv2.VideoCapture:
    sensor = spec.removeprefix("csi://") or "0"
    if not sensor.isdigit():
        raise UnavailableError(f"camera {spec}: expected csi://N with the sensor's number")
    if cv2.CAP_GSTREAMER not in cv2.videoio_registry.getBackends() or not _has_gstreamer():
        raise UnavailableError(
            f"camera {spec} needs an OpenCV with GStreamer, which {cv2.__version__} here has not (pip's never has): "
            "use JetPack's own OpenCV, or a USB camera"
        )
    capture = cv2.VideoCapture(_CSI.format(sensor=sensor), cv2.CAP_GSTREAMER)
    if not capture.isOpened():
        raise UnavailableError(f"camera {spec} cannot be opened: is the sensor connected and nvargus-daemon running?")
    return capture


def _has_gstreamer() -> bool:
    return re.search(r"GStreamer:\s*YES", cv2.getBuildInformation()) is not None


def _cameras() -> str:
    found = sorted(str(p) for p in Path("/dev").glob("video*"))
    return f"cameras here: {', '.join(found)}" if found else "no camera is connected"
