"""Where the time of a frame goes: its stages, the layers of its model, and the bounds of both; one record of it all."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np

from poster_edge.bench.devices import Device
from poster_edge.bench.energy import EnergyReport
from poster_edge.bench.environment import Environment
from poster_edge.bench.layers import Layer, LayerProfile
from poster_edge.bench.layers_graph import Graph
from poster_edge.bench.noise import Noise
from poster_edge.bench.roofline import Bounds, at_precision, bounds, floor
from poster_edge.errors import InputError
from poster_edge.pipeline.frame import Frame, Source
from poster_edge.pipeline.stages import DETAILED_STAGES, Pipeline

SCHEMA = 1
KIND = "poster-edge profile"


@dataclass(frozen=True)
class Stage:
    """One stage of a frame.

    Attributes:
        name: one of ``DETAILED_STAGES``.
        median_ms, p90_ms, mean_ms: over the frames.
        share: of the mean of all stages, 0 to 1.
    """

    name: str
    median_ms: float
    p90_ms: float
    mean_ms: float
    share: float


@dataclass(frozen=True)
class StageProfile:
    """All stages.

    Attributes:
        source: what was looked at.
        what: detector, model, precision and runtime.
        frames: that were timed.
        faces: found in them.
        seconds: wall time of the timed part, looks at the machine included.
        stages: those that ran, in their order.
        total_ms: median of a frame's sum.
        notes: what the reader should know.
    """

    source: str
    what: str
    frames: int
    faces: int
    seconds: float
    stages: tuple[Stage, ...]
    total_ms: float
    notes: tuple[str, ...]

    @property
    def rate(self) -> float:
        """Frames a second, one after the other, from the stages' means."""
        return 1e3 / max(sum(s.mean_ms for s in self.stages), 1e-9)


@dataclass(frozen=True)
class TargetBounds:
    """Least times of the model on a device that need not be here.

    Attributes:
        target: name in the device table.
        device: its figures.
        precision: of arithmetic and storage; "as exported": what the graph says.
        batch: B.
        bounds: of the whole model, in s.
        computes_in: precisions of its products.
        floors: of each profiled layer, in s; None where it stands for no node of the graph; empty without layers.
    """

    target: str
    device: Device
    precision: str
    batch: int
    bounds: Bounds
    computes_in: tuple[str, ...] = ()
    floors: tuple[float | None, ...] = ()

    @property
    def doubtful(self) -> bool:
        """Whether a figure of the device that they rest on is derived."""
        return any(self.device.doubtful(p) for p in self.computes_in)


#: Name of the precision that a graph has by itself.
AS_EXPORTED = "as exported"


def profile_stages(
    open_frames: Callable[[], Source],
    pipeline: Pipeline,
    *,
    source: str,
    what: str,
    frames: int,
    warmup: int = 5,
    begin: Callable[[], None] = lambda: None,
    advance: Callable[[], None] = lambda: None,
) -> StageProfile:
    """Run frames through the pipeline, one after the other, and sum up its clock.

    Args:
        open_frames: opens the source; a source with an end is opened again until there are enough frames.
        pipeline: detailed.
        source: its name.
        what: runs, in words.
        frames: timed ones.
        warmup: frames before, which are left out.
        begin: called before the first timed frame.
        advance: called after each frame.

    Raises:
        InputError: the source has no frame.
    """
    clocks: list[Mapping[str, float]] = []
    faces, began = 0, time.perf_counter()
    with closing(_endless(open_frames)) as all_frames:
        for index, frame in zip(range(frames + warmup), all_frames, strict=False):
            if index == warmup:
                begin()
                began = time.perf_counter()
            result = pipeline.process(frame)
            if index >= warmup:
                clocks.append(dict(result.latency_ms))
                faces += len(result.faces)
            advance()
    if not clocks:
        raise InputError(f"{source}: fewer than {warmup + 1} frames; give a source with more of them")
    seconds = time.perf_counter() - began
    notes = [] if faces else ["no face was found, so the network never ran; --detector none takes the whole picture"]
    return StageProfile(source, what, len(clocks), faces, seconds, *_summary(clocks), tuple(notes))


def _endless(open_frames: Callable[[], Source]) -> Generator[Frame, None, None]:
    """Frames of a source, from its beginning again when it has ended; a pipe ends for good."""
    while True:
        source = open_frames()
        count = 0
        for frame in source:
            count += 1
            yield frame
        if not count or not source.inputs:
            return


def _summary(clocks: list[Mapping[str, float]]) -> tuple[tuple[Stage, ...], float]:
    names = [s for s in DETAILED_STAGES if any(c.get(s, 0.0) > 0 for c in clocks)]
    # stages x frames
    times = np.array([[c.get(name, 0.0) for c in clocks] for name in names])
    whole = float(times.mean(axis=1).sum()) or 1.0
    stages = tuple(
        Stage(name, float(np.median(row)), float(np.percentile(row, 90)), float(row.mean()), float(row.mean()) / whole)
        for name, row in zip(names, times, strict=True)
    )
    return stages, float(np.median(times.sum(axis=0)))


def target_bounds(
    graph: Graph, target: str, device: Device, precision: str, layers: Iterable[Layer] = ()
) -> TargetBounds:
    """Bounds of a model on a device.

    Args:
        graph: of the model.
        target: name of the device in the table.
        device: its figures.
        precision: "fp32", "fp16", "int8" or ``AS_EXPORTED``.
        layers: as they were profiled; each gets its floor there.
    """
    seen = graph if precision == AS_EXPORTED else at_precision(graph, precision)
    floors = tuple(floor(seen.cost(layer.members), device) if layer.members else None for layer in layers)
    computes_in = tuple(seen.total().flops)
    return TargetBounds(target, device, precision, graph.batch, bounds(seen, device), computes_in, floors)


@dataclass(frozen=True)
class Profile:
    """Everything that one ``poster-edge profile`` found.

    Attributes:
        environment: the machine.
        model: name, precision, file and runtime of what ran.
        stages: of the pipeline.
        layers: of the model, where they were asked for.
        plain_ms: median of an inference without a profiler, at the layers' batch.
        device: ceilings of this machine, where they are known.
        here: bounds of the model on this machine.
        targets: bounds on other devices.
        energy: of the timed frames, where it was asked for.
        noise: what disturbed the run.
        notes: what the reader should know.
    """

    environment: Environment
    model: dict[str, Any]
    stages: StageProfile
    layers: LayerProfile | None = None
    plain_ms: float | None = None
    device: Device | None = None
    here: Bounds | None = None
    targets: tuple[TargetBounds, ...] = ()
    energy: EnergyReport | None = None
    noise: Noise | None = None
    notes: tuple[str, ...] = ()

    @property
    def all_notes(self) -> list[str]:
        """What the reader should know of all parts, what disturbed the run first."""
        told = [f"NOISY: {reason}" for reason in self.noise.reasons] if self.noise else []
        return [*told, *self.notes, *self.stages.notes, *(self.layers.notes if self.layers else ())]

    def to_json(self) -> str:
        """The record as JSON; times in ms and µs as their names say, bytes and operations as integers."""
        return json.dumps(self.to_dict(), indent=1, ensure_ascii=False) + "\n"

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "schema": SCHEMA,
            "kind": KIND,
            "environment": self.environment.to_dict(),
            "noise": self.noise.to_dict() if self.noise else None,
            "model": self.model,
            "stages": _stages_dict(self.stages),
            "layers": self._layers_dict(),
            "this_device": device_dict(self.device) if self.device else None,
            "bounds_here_us": _bounds_dict(self.here) if self.here else None,
            "targets": [
                {
                    "target": t.target,
                    "device": device_dict(t.device),
                    "precision": t.precision,
                    "batch": t.batch,
                    "rests_on_derived_figures": t.doubtful,
                    "bounds_us": _bounds_dict(t.bounds),
                }
                for t in self.targets
            ],
            "energy": self.energy.to_dict() if self.energy else None,
            "notes": self.all_notes,
        }

    def _layers_dict(self) -> dict[str, Any] | None:
        if self.layers is None:
            return None
        rows = []
        for i, layer in enumerate(self.layers.layers):
            floors = {t.target: _micro(t.floors[i]) for t in self.targets if t.floors}
            rows.append(layer_dict(layer, self.device) | {"floor_on_us": floors})
        return {
            "runtime": self.layers.runtime,
            "file": self.layers.file,
            "batch": self.layers.batch,
            "runs": self.layers.runs,
            "sum_ms": self.layers.sum_ms,
            "profiled_ms": self.layers.profiled_ms,
            "plain_ms": self.plain_ms,
            "rows": rows,
        }


def layer_dict(layer: Layer, device: Device | None) -> dict[str, Any]:
    """A layer as plain values; its share of the roofline where the device is known."""
    cost = layer.cost
    values: dict[str, Any] = {
        "name": layer.name,
        "kind": layer.kind,
        "nodes": list(layer.nodes),
        "median_ms": layer.ms,
        "flops": cost.flops,
        "other_operations": cost.others,
        "bytes": {"weights": cost.weights, "inputs": cost.inputs, "outputs": cost.outputs},
        "gflops_per_s": layer.gflops,
        "gbytes_per_s": layer.gbytes,
    }
    if device:
        values |= {
            "floor_us": 1e6 * floor(cost, device),
            "bound": layer.bound(device),
            "share_of_roofline": layer.share(device),
        }
    return values


def device_dict(device: Device) -> dict[str, Any]:
    """A device's figures with their sources."""
    rates = {p: _figure(f.value, f.source, derived=f.derived) for p, f in device.rates.items()}
    bandwidth = _figure(device.bandwidth.value, device.bandwidth.source, derived=device.bandwidth.derived)
    return {"name": device.name, "measured": device.measured, "tflops": rates, "gbytes_per_s": bandwidth}


def _figure(value: float, source: str, *, derived: bool) -> dict[str, Any]:
    return {"value": value, "source": source, "derived": derived}


def _micro(seconds: float | None) -> float | None:
    return None if seconds is None else 1e6 * seconds


def _bounds_dict(found: Bounds) -> dict[str, float]:
    return {"ideal": 1e6 * found.ideal, "fused": 1e6 * found.fused, "layers": 1e6 * found.layers}


def _stages_dict(found: StageProfile) -> dict[str, Any]:
    return {
        "source": found.source,
        "what": found.what,
        "frames": found.frames,
        "faces": found.faces,
        "seconds": found.seconds,
        "total_median_ms": found.total_ms,
        "rows": [vars(s) for s in found.stages],
    }
