"""What ``poster-edge export`` was asked for, beyond the model."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from poster_edge.calib.gate import Thresholds


@dataclass(frozen=True)
class Options:
    """What was asked for, beyond the model.

    Attributes:
        precision: "fp32", "fp16", "int8" or "auto".
        also: further precisions to make.
        target: "all", "onnxruntime", "openvino" or "tensorrt".
        calib: images for INT8 ranges, or None for the model's own calibration.
        method: how ranges are chosen.
        images: how many images to calibrate on.
        seed: of their selection.
        gate: whether accuracy is judged.
        data: labelled faces that judge, or None.
        judged: at most so many of them.
        threads: of one operator.
        weight_bits: of INT8's weights: 8, or 7 for CPUs without VNNI.
        fused_op: also write a graph with one node for each cross-fusion depth.
        thresholds: of the gate.
    """

    precision: str
    also: tuple[str, ...] = ()
    target: str = "all"
    calib: Path | None = None
    method: str = "mse"
    images: int = 512
    seed: int = 0
    gate: bool = True
    data: Path | None = None
    judged: int = 4096
    threads: int | None = None
    weight_bits: int = 8
    fused_op: bool = False
    thresholds: Thresholds = field(default_factory=Thresholds)

    @property
    def precisions(self) -> tuple[str, ...]:
        """Lower precisions to make."""
        wanted = {"fp16", "int8"} if self.precision == "auto" else {self.precision, *self.also}
        return tuple(p for p in ("fp16", "int8") if p in wanted)
