"""The name of a plan: everything that must be the same for a plan to be used again."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

from poster_edge.export.engine_spec import EngineSpec
from poster_edge.export.gpu import Gpu
from poster_edge.export.tensorrt_api import TensorRt

#: Raise it when our builder changes what it builds from the same inputs.
_LAYOUT = 2


@dataclass(frozen=True)
class EngineKey:
    """What a plan was built from, for and with; two plans with equal keys are interchangeable.

    Attributes:
        flavour: "tensorrt" or "tensorrt-rtx".
        tensorrt: its version.
        gpu: name of the GPU it was built on, "" without one.
        gpu_capability: compute capability of that GPU, "" without one.
        cuda: CUDA version of the driver, "" without one.
        driver: version of the driver, "" where unknown.
        compute_capabilities: that the plan is for (TensorRT-RTX), in rising order.
        onnx_sha256: of the graph's bytes.
        calibration: hash of the calibration that the graph's scales come from, "" for none.
        profile: batch sizes min/opt/max.
        flags: whatever else changes the plan.
        plugin: hash of the plugin's library, "" without one.
        layout: of this key.
    """

    flavour: str
    tensorrt: str
    gpu: str
    gpu_capability: str
    cuda: str
    driver: str
    compute_capabilities: tuple[str, ...]
    onnx_sha256: str
    calibration: str
    profile: str
    flags: tuple[str, ...]
    plugin: str = ""
    layout: int = _LAYOUT

    @property
    def digest(self) -> str:
        """32 hexadecimal digits: the plan's file name."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


def engine_key(
    tensorrt: TensorRt, spec: EngineSpec, *, gpu: Gpu | None, onnx_sha256: str, calibration: str = ""
) -> EngineKey:
    """The key of a plan.

    Args:
        tensorrt: what builds it.
        spec: how.
        gpu: what it is built on, or None: see :func:`poster_edge.export.gpu.find_gpu`.
        onnx_sha256: of the graph's bytes.
        calibration: hash of its calibration, "" for none.
    """
    return EngineKey(
        flavour=tensorrt.flavour,
        tensorrt=tensorrt.version,
        gpu=gpu.name if gpu else "",
        gpu_capability=gpu.compute_capability if gpu else "",
        cuda=gpu.cuda if gpu else "",
        driver=gpu.driver if gpu else "",
        compute_capabilities=_resolved(spec.compute_capabilities, gpu),
        onnx_sha256=onnx_sha256,
        calibration=calibration,
        profile=str(spec.profile),
        flags=spec.flags,
        plugin=spec.plugin.sha256 if spec.plugin else "",
    )


def _resolved(capabilities: tuple[str, ...], gpu: Gpu | None) -> tuple[str, ...]:
    """Each once, in rising order, with "current" replaced by what it stands for."""
    current = gpu.compute_capability if gpu else "current"
    return tuple(sorted({current if c == "current" else c for c in capabilities}))
