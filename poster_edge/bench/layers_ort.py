"""Times of onnxruntime's layers, from its own profiler, at full optimisation as in a run."""

from __future__ import annotations

import json
import re
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from poster_edge.bench.layers_join import Trace
from poster_edge.errors import UnavailableError
from poster_edge.runtime.ort_runner import OrtRunner

#: What onnxruntime puts before and after a name when it replaces a node or a tensor by another.
_PREFIX = re.compile(r"^(InsertedPrecisionFreeCast_|fused )+")
_SUFFIX = re.compile(r"(_token_\d+|/.*|_nchwc)+$")
#: Nodes that onnxruntime adds to change a layout or a number format.
_COPIES = frozenset({"Cast", "ReorderInput", "ReorderOutput", "MemcpyFromHost", "MemcpyToHost"})
_KERNEL = "_kernel_time"
_BYTES = {"float": 4, "float16": 2, "double": 8, "int32": 4, "int64": 8, "uint8": 1, "int8": 1, "bool": 1}


def trace_onnxruntime(
    runner: OrtRunner, feed: Mapping[str, NDArray[Any]], *, runs: int, warmup: int
) -> tuple[list[Trace], list[float]]:
    """Run a model under onnxruntime's profiler.

    Args:
        runner: not entered yet.
        feed: input name -> array.
        runs: timed ones.
        warmup: runs before, which are left out.

    Returns:
        The layers in the order of execution, and the ms of each whole run.

    Raises:
        UnavailableError: a provider that compiles the model into one node.
    """
    if runner.provider.builds_engines:
        raise UnavailableError(
            f"--layers: {runner.provider.label} in onnxruntime runs the model as one node and tells no layers; use "
            "--runtime tensorrt or tensorrt-rtx, or --device cuda:N"
        )
    with tempfile.TemporaryDirectory(prefix="poster-edge-profile-") as folder:
        optimised = Path(folder) / "optimised.onnx"
        runner.profile_to(Path(folder) / "times", optimised)
        with runner:
            for _ in range(warmup + runs):
                runner.infer(feed)
            events = json.loads(runner.end_profiling().read_text())
        outputs = _outputs(optimised)
    return _traces(events, outputs, runs), _totals(events, runs)


def _outputs(optimised: Path) -> dict[str, tuple[str, ...]]:
    """Node of the optimised graph -> its outputs."""
    import onnx

    model = onnx.load(str(optimised), load_external_data=False)
    return {n.name: tuple(n.output) for n in model.graph.node}


def _totals(events: Sequence[Mapping[str, Any]], runs: int) -> list[float]:
    return [e["dur"] / 1e3 for e in events if e.get("name") == "model_run"][-runs:]


def _traces(events: Sequence[Mapping[str, Any]], outputs: Mapping[str, tuple[str, ...]], runs: int) -> list[Trace]:
    times: dict[str, list[float]] = defaultdict(list)
    last: dict[str, Mapping[str, Any]] = {}
    for event in events:
        name = str(event.get("name", ""))
        if event.get("cat") == "Node" and name.endswith(_KERNEL):
            # A node without a name is called by its index alone.
            key = f"{name.removesuffix(_KERNEL)}#{event['args'].get('node_index')}"
            times[key].append(event["dur"] / 1e3)
            last[key] = event["args"]
    return [_trace(key.rpartition("#")[0], ms[-runs:], last[key], outputs) for key, ms in times.items()]


def _trace(
    name: str, ms: Sequence[float], arguments: Mapping[str, Any], outputs: Mapping[str, tuple[str, ...]]
) -> Trace:
    kind = str(arguments.get("op_name", ""))
    plain = _plain(name)
    # A convolution in blocked layout bears the name of the tensor that it makes; what only changes layout or
    # format makes a tensor that the layer before it stands for.
    copies = kind in _COPIES
    tensors = () if copies else (*map(_plain, outputs.get(name, ())), plain)
    return Trace(name, kind, tuple(ms), (name, plain), tensors, moved=_moved(arguments))


def _plain(name: str) -> str:
    """Name of the node or tensor of the original graph that a new name was made from."""
    return _PREFIX.sub("", _SUFFIX.sub("", name))


def _moved(arguments: Mapping[str, Any]) -> int:
    """Bytes of all inputs and outputs, as executed."""
    shapes = [*arguments.get("input_type_shape", ()), *arguments.get("output_type_shape", ())]
    return sum(_BYTES.get(kind, 4) * int(prod(shape)) for entry in shapes for kind, shape in entry.items())


def median_ms(values: Sequence[float]) -> float:
    """Median, 0 of nothing."""
    return float(np.median(values)) if len(values) else 0.0
