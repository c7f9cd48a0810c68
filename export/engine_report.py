"""Checks that an engine computes in the precision it was asked for, and reports what each layer runs in.

With a GPU the engine is opened and TensorRT's inspector asked; without one the parsed network speaks: it is
strongly typed, so its types are what the builder must use.  The report says which of both was done.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any

from poster_edge.errors import UnavailableError
from poster_edge.export.engine import BuiltEngine
from poster_edge.export.engine_network import ComputeLayer
from poster_edge.export.gpu import visible_gpus
from poster_edge.export.tensorrt_api import TensorRt

#: Name of the fused attention kernels in the plans of TensorRT-RTX 1.7: undocumented, so only a hint.
_FUSED_ATTENTION = b"_gemm_mha_v2"
#: Nodes that a layer of an engine was made from, in its metadata.
_ONNX_NODE = re.compile(r"\[ONNX Layer: ([^\]]+)\]")
#: How inspectors of different versions write a type; the first that fits counts.
_TYPES = (
    ("int8", re.compile(r"int8|\bi8\b", re.IGNORECASE)),
    ("fp8", re.compile(r"fp8", re.IGNORECASE)),
    ("bf16", re.compile(r"bf16|bfloat16", re.IGNORECASE)),
    ("fp16", re.compile(r"half|fp16|float16", re.IGNORECASE)),
    ("fp32", re.compile(r"float|fp32", re.IGNORECASE)),
)
_COPIES = {"reformat", "noop", "constant", "shape", "signal", "wait"}
_SHOWN = 8


@dataclass(frozen=True)
class EngineReport:
    """What the layers of an engine run in.

    Attributes:
        source: "built": read from the engine; "parsed": from the strongly typed network, no GPU being there.
        layers: kind of convolution or matrix product -> precision -> names of its ONNX nodes.
        others: kind and type of the remaining layers -> how many.
        softmaxes: attention maps of the model.
        fused_attention: how often the plan names fused attention kernels.
        notes: what is worth knowing.
    """

    source: str
    layers: dict[str, dict[str, list[str]]]
    others: dict[str, int]
    softmaxes: int
    fused_attention: int
    notes: tuple[str, ...] = ()

    def counts(self) -> dict[str, dict[str, int]]:
        """Kind -> precision -> how many."""
        return {kind: {p: len(names) for p, names in found.items()} for kind, found in self.layers.items()}

    def __str__(self) -> str:
        kinds = (
            f"{kind}s: " + ", ".join(f"{n} {p}" for p, n in found.items()) for kind, found in self.counts().items()
        )
        return f"{'; '.join(kinds)} ({self.source})"

    def to_dict(self) -> dict[str, Any]:
        """For the manifest."""
        return asdict(self) | {"notes": list(self.notes)}


def verify_engine(
    tensorrt: TensorRt, engine: BuiltEngine, precision: str, *, floats: Collection[str] = ()
) -> EngineReport:
    """Report what an engine computes in, and refuse one that is not in the precision asked for.

    Args:
        tensorrt: what built it.
        engine: as built.
        precision: "fp32", "fp16" or "int8".
        floats: nodes that were left in float on purpose, by the accuracy gate or because FP16 cannot hold them.

    Raises:
        UnavailableError: its convolutions or products run in FP32 though a lower precision was asked for, or
            none runs in INT8; lists the layers.  Or the plugin it was built with is not in it.
    """
    report = report_engine(tensorrt, engine)
    if engine.spec.plugin is not None and not engine.network.plugins:
        raise UnavailableError(
            f"{tensorrt.title} did not take the plugin into the engine: the graph has no node for it; make one with "
            "'poster-edge kernels graph'"
        )
    check_precision(report, precision, floats=floats)
    return report


def report_engine(tensorrt: TensorRt, engine: BuiltEngine) -> EngineReport:
    """What an engine computes in; see :func:`verify_engine`."""
    compute, others, notes = engine.network.compute, engine.network.others, []
    layers = None
    if visible_gpus():
        if engine.spec.plugin is not None:
            # It was built in another process; this one cannot open a plan whose plugin it does not know.
            tensorrt.load_plugin(engine.spec.plugin)
        layers = inspect_engine(tensorrt, engine.plan)
    if layers is not None:
        compute, others, unknown = built_precisions(layers, compute)
        if unknown:
            notes.append(f"{unknown} layers are fused with others: their type is the network's, which binds TensorRT")
    if engine.spec.plugin is not None and engine.network.plugins:
        notes.append(
            f"the cross-fusion is the plugin's, in {engine.spec.plugin.precision}: {', '.join(engine.network.plugins)}"
        )
    fused = engine.plan.count(_FUSED_ATTENTION)
    lower = any(layer.precision != "fp32" for layer in compute)
    if lower and engine.spec.detailed and fused < engine.network.softmaxes:
        notes.append(f"{engine.network.softmaxes} attention maps, but the plan names {fused} fused attention kernels")
    source = "parsed" if layers is None else "built"
    return EngineReport(source, _grouped(compute), others, engine.network.softmaxes, fused, tuple(notes))


def check_precision(report: EngineReport, precision: str, *, floats: Collection[str] = ()) -> None:
    """Refuse an engine that is not in the precision asked for; see :func:`verify_engine`."""
    if precision == "fp32":
        return
    wide = [n for found in report.layers.values() for n in found.get("fp32", ()) if n not in floats]
    if wide:
        raise UnavailableError(
            f"{precision} was asked for, but {len(wide)} layers compute in FP32 ({report.source}): {_some(wide)}; "
            "export the model again with --half or --int8"
        )
    convolutions = report.layers.get("convolution", {})
    if precision == "int8" and convolutions and "int8" not in convolutions:
        names = [n for found in convolutions.values() for n in found]
        raise UnavailableError(
            f"int8 was asked for, but none of {len(names)} convolutions computes in INT8 ({report.source}): "
            f"{_some(names)}; the graph has no Q/DQ pairs around them, export the model again with --int8"
        )


def inspect_engine(tensorrt: TensorRt, plan: bytes) -> list[dict[str, Any]] | None:
    """Layers of a plan built here as TensorRT's inspector describes them, or None where it cannot be opened.

    A TensorRT-RTX plan for other GPUs than this one's cannot be opened here.
    """
    engine = tensorrt.runtime().deserialize_cuda_engine(plan)
    if engine is None:
        return None
    text = engine.create_engine_inspector().get_engine_information(tensorrt.module.LayerInformationFormat.JSON)
    layers = json.loads(text).get("Layers", [])
    # Without detailed verbosity a layer is its name alone.
    return [layer for layer in layers if isinstance(layer, dict)] or None


def built_precisions(
    layers: list[dict[str, Any]], parsed: tuple[ComputeLayer, ...]
) -> tuple[tuple[ComputeLayer, ...], dict[str, int], int]:
    """What an engine's layers say about the network's.

    Args:
        layers: from the inspector.
        parsed: convolutions and products of the network.

    Returns:
        The same with the engine's precision, kind and type of its other layers -> how many, and for how many
        of the first the engine does not tell, since a layer of it holds several.
    """
    names = {layer.name for layer in parsed}
    found: dict[str, str] = {}
    others: Counter[str] = Counter()
    for layer in layers:
        kind = str(layer.get("LayerType", "")).lower()
        inside = names.intersection(_ONNX_NODE.findall(str(layer.get("Metadata", ""))))
        precision = _operand_type(layer)
        if len(inside) == 1 and precision and kind not in _COPIES:
            found.setdefault(inside.pop(), precision)
        else:
            others[f"{kind or 'layer'} {precision}".strip()] += 1
    compute = tuple(ComputeLayer(c.name, c.kind, found.get(c.name, c.precision)) for c in parsed)
    return compute, dict(sorted(others.items())), sum(c.name not in found for c in parsed)


def _operand_type(layer: dict[str, Any]) -> str:
    """Type of a layer's first input, "" where it tells none."""
    for tensor in layer.get("Inputs", []):
        text = f"{tensor.get('Datatype', '')} {tensor.get('Format/Datatype', '')}" if isinstance(tensor, dict) else ""
        for name, pattern in _TYPES:
            if pattern.search(text):
                return name
    return ""


def _grouped(compute: tuple[ComputeLayer, ...]) -> dict[str, dict[str, list[str]]]:
    out: dict[str, dict[str, list[str]]] = {}
    for layer in compute:
        out.setdefault(layer.kind, {}).setdefault(layer.precision, []).append(layer.name)
    return out


def _some(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
