"""How an engine is to be built: everything besides the ONNX graph that changes the plan."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from poster_edge.errors import UsageError
from poster_edge.export.engine_plugin import PluginLibrary
from poster_edge.export.tensorrt_api import FLAVOURS

_CAPABILITY = re.compile(r"\d{1,2}\.\d|current")


@dataclass(frozen=True)
class Profile:
    """Batch sizes of an engine: it runs any from ``min`` to ``max`` and is tuned for ``opt``."""

    min: int = 1
    opt: int = 1
    max: int = 8

    def __post_init__(self) -> None:
        if not 1 <= self.min <= self.opt <= self.max:
            raise UsageError(
                f"batch sizes min {self.min}, opt {self.opt}, max {self.max}: they must not fall, from 1 upwards"
            )

    def __str__(self) -> str:
        return f"{self.min}/{self.opt}/{self.max}"


@dataclass(frozen=True)
class EngineSpec:
    """How to build.

    Attributes:
        flavour: "tensorrt" or "tensorrt-rtx".
        profile: batch sizes.
        workspace_mib: limit of the scratch memory in MiB; None: the builder's own.
        compute_capabilities: of the GPUs a TensorRT-RTX plan is for, such as ("8.6", "8.9") or ("current",);
            empty: the GPU that is there.
        detailed: names layers and their types in the plan, so that it can be verified.
        plugin: computes the cross-fusion of a graph that was made for it; None: the graph is TensorRT's alone.
        timing_cache: file in which measured kernels are kept between builds; used only where a GPU is.
    """

    flavour: str
    profile: Profile = field(default_factory=Profile)
    workspace_mib: int | None = None
    compute_capabilities: tuple[str, ...] = ()
    detailed: bool = True
    plugin: PluginLibrary | None = None
    timing_cache: Path | None = None

    def __post_init__(self) -> None:
        if self.flavour not in FLAVOURS:
            raise UsageError(f"'{self.flavour}' is neither of {', '.join(FLAVOURS)}")
        if self.workspace_mib is not None and self.workspace_mib < 1:
            raise UsageError(f"a workspace of {self.workspace_mib} MiB; expected 1 or more")
        for capability in self.compute_capabilities:
            if not _CAPABILITY.fullmatch(capability):
                raise UsageError(f"compute capability '{capability}'; expected one such as 8.6, or 'current'")

    @property
    def flags(self) -> tuple[str, ...]:
        """What else changes the plan, for its key; a timing cache changes only how long it takes."""
        workspace = () if self.workspace_mib is None else (f"workspace={self.workspace_mib}MiB",)
        return ("strongly-typed", *(("detailed",) if self.detailed else ()), *workspace)
