"""The model's part of ``poster-edge profile``: its runners, layers, this machine's ceilings, and the targets."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from poster_edge.bench.devices import Device, device_of_gpu, find_device
from poster_edge.bench.environment import usable_cores
from poster_edge.bench.layers import LayerProfile, profile_layers
from poster_edge.bench.layers_graph import Graph, read_graph
from poster_edge.bench.profiling import AS_EXPORTED, target_bounds
from poster_edge.bench.roofline import at_precision, bounds
from poster_edge.bench.roofline_host import measure_host
from poster_edge.runtime.bundle import Bundle
from poster_edge.runtime.choose import make_runner
from poster_edge.runtime.classifier import Classifier
from poster_edge.runtime.runner import Runner

if TYPE_CHECKING:
    from poster_edge.bench.roofline import Bounds


class Model:
    """A bundle with the options that say what runs it.

    Args:
        bundle: opened.
        options: those of :func:`poster_edge.cli.options.runtime_options`.

    Attributes:
        ran: what really ran, once something has.
    """

    def __init__(self, bundle: Bundle, options: Mapping[str, Any]) -> None:
        self.bundle, self._options = bundle, dict(options)
        self._classifier = Classifier(bundle, notify=_tell, **self._options)
        self.precision = self._classifier.precision
        self.ran, self.file = "", ""

    def classifier(self) -> Classifier:
        """The classifier, to be entered once."""
        return self._classifier

    def runner(self) -> Runner:
        """A runner of its own, not entered; the same choice as the classifier's."""
        options = {**self._options, "precision": self.precision, "plugin": self._classifier.plugin}
        runner = make_runner(self.bundle, notify=_tell, **options)
        self.file = runner.file
        return runner

    @property
    def is_torch(self) -> bool:
        """Whether torch runs the network itself and not an ONNX file."""
        return bool(self._options["runtime"] == "torch")

    @property
    def threads(self) -> int:
        """Of the model: those asked for, else as many as there are cores."""
        return int(self._options["threads"] or len(usable_cores()))

    def graph_data(self) -> bytes:
        """The ONNX file that runs; for torch the bundle's FP32 one.

        Raises:
            BundleError: a checkpoint has none.
        """
        name = self.bundle.model_file("fp32") if self.is_torch else self.runner().file
        return self.bundle.read(name)

    def facts(self) -> dict[str, Any]:
        """What the record says of the model."""
        return {
            "name": self.bundle.manifest.model,
            "precision": self.precision,
            "file": self._classifier.file,
            "runtime": self._classifier.runtime,
            "trained": self.bundle.manifest.has_trained_weights,
        }


def _tell(text: str) -> None:
    from poster_edge.cli import console

    console.message(text)


def examine(
    model: Model, *, layers: bool, batch: int, runs: int, targets: Sequence[str], precision: str | None
) -> dict[str, Any]:
    """Layers and bounds as far as they were asked for, as arguments of ``Profile``.

    Args:
        model: whose stages were timed.
        layers: whether to time each layer.
        batch: B.
        runs: timed inferences.
        targets: names of devices.
        precision: there; None: the graph's own.
    """
    if not layers and not targets:
        return {}
    data = None if model.is_torch and not targets else model.graph_data()
    graph = read_graph(data, batch=batch) if data is not None else None
    notes = []
    found: LayerProfile | None = None
    plain_ms: float | None = None
    device: Device | None = None
    if layers:
        feed = model_feed(model.bundle, batch)
        found = profile_layers(model.runner(), None if model.is_torch else data, feed, runs=runs)
        plain_ms = _plain_ms(model.runner(), feed, runs)
        device, note = this_device(found.runtime, model)
        notes += [note] if note else []
    there = [
        target_bounds(graph, t, find_device(t), precision or AS_EXPORTED, () if model.is_torch else _layers(found))
        for t in targets
        if graph is not None
    ]
    here = _bounds_here(graph, device, model)
    return {
        "layers": found,
        "plain_ms": plain_ms,
        "device": device,
        "here": here,
        "targets": tuple(there),
        "notes": tuple(notes),
    }


def _layers(found: LayerProfile | None) -> tuple[Any, ...]:
    return found.layers if found else ()


def _bounds_here(graph: Graph | None, device: Device | None, model: Model) -> Bounds | None:
    if graph is None or device is None:
        return None
    return bounds(at_precision(graph, "fp16") if model.is_torch and model.precision != "fp32" else graph, device)


def model_feed(bundle: Bundle, batch: int) -> dict[str, NDArray[np.float32]]:
    """A batch for a bundle's model; what is in it does not matter for the time."""
    size = bundle.manifest.preprocess.size
    images = np.random.default_rng(0).normal(0, 0.5, (batch, 3, size, size))
    return {bundle.manifest.input_name: images.astype(np.float32)}


def _plain_ms(runner: Runner, feed: Mapping[str, NDArray[Any]], runs: int) -> float:
    """Median of an inference without a profiler."""
    times = []
    with runner:
        for _ in range(3):
            runner.infer(feed)
        for _ in range(runs):
            began = time.perf_counter()
            runner.infer(feed)
            times.append(1e3 * (time.perf_counter() - began))
    return float(np.median(times))


def this_device(runtime: str, model: Model) -> tuple[Device | None, str]:
    """Ceilings of what ran the model: measured of a CPU, looked up of a GPU; and why there are none."""
    if "(CPU" in runtime:
        return measure_host(threads=model.threads), ""
    found = device_of_gpu(runtime)
    if found is None:
        return None, f"no roofline of this device: none of the device table's names is in '{runtime}'"
    return found, ""
