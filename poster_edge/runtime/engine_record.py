"""What a bundle says about each engine in it: how it was built, from which model, what it computes in."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from typing import Any

from poster_edge.export.tensorrt_api import FLAVOURS

ENGINE_FOLDER = "engines"
_NAME = re.compile(rf"{ENGINE_FOLDER}/[A-Za-z0-9][A-Za-z0-9._-]*\.plan")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_TEXTS = ("flavour", "tensorrt", "gpu", "precision", "model", "onnx_sha256")


@dataclass(frozen=True)
class EngineRecord:
    """One plan of a bundle.  It is executable code: only the machine that built it runs it unasked.

    Attributes:
        flavour: "tensorrt" or "tensorrt-rtx".
        tensorrt: version that built it.
        gpu: that it was built on, "" without one.
        compute_capabilities: that it is for; empty: that of the GPU it was built on.
        precision: "fp32", "fp16" or "int8".
        model: file name of the ONNX model it was built from.
        onnx_sha256: of that file.
        profile: smallest, best and largest batch.
        flags: what else went into the build.
        seconds: that the build took.
        warnings: of the builder.
        report: what its layers compute in; see :class:`poster_edge.export.engine_report.EngineReport`.
    """

    flavour: str
    tensorrt: str
    gpu: str
    compute_capabilities: tuple[str, ...]
    precision: str
    model: str
    onnx_sha256: str
    profile: tuple[int, int, int]
    flags: tuple[str, ...]
    seconds: float
    warnings: tuple[str, ...] = ()
    report: dict[str, Any] = field(default_factory=dict)


def parse_engines(values: Any, artefacts: set[str]) -> dict[str, EngineRecord]:
    """Check the manifest's entry ``engines``.

    Args:
        values: of the entry.
        artefacts: names of the bundle's files.

    Raises:
        ValueError: says what is wrong.
    """
    if not isinstance(values, dict):
        raise ValueError("'engines' must be an object")
    if lost := sorted(set(values) ^ {a for a in artefacts if a.startswith(f"{ENGINE_FOLDER}/")}):
        raise ValueError(f"'engines' and the files disagree about {', '.join(lost)}")
    return {name: _record(name, entry) for name, entry in values.items()}


def _record(name: str, entry: Any) -> EngineRecord:
    if not _NAME.fullmatch(name):
        raise ValueError(f"engine {name!r} has no plain file name")
    if not isinstance(entry, dict) or set(entry) != {f.name for f in fields(EngineRecord)}:
        raise ValueError(f"engine {name}: needs {', '.join(f.name for f in fields(EngineRecord))}")
    if not all(isinstance(entry[t], str) for t in _TEXTS) or entry["flavour"] not in FLAVOURS:
        raise ValueError(f"engine {name}: {', '.join(_TEXTS)} must be text, flavour one of {', '.join(FLAVOURS)}")
    if not _SHA256.fullmatch(entry["onnx_sha256"]):
        raise ValueError(f"engine {name}: onnx_sha256 must be 64 hexadecimal digits")
    lists = {key: entry[key] for key in ("compute_capabilities", "flags", "warnings")}
    if not all(isinstance(v, list) and all(isinstance(t, str) for t in v) for v in lists.values()):
        raise ValueError(f"engine {name}: {', '.join(lists)} must be lists of text")
    seconds = entry["seconds"]
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not isinstance(entry["report"], dict):
        raise ValueError(f"engine {name}: 'seconds' must be a number and 'report' an object")
    values: dict[str, Any] = {key: entry[key] for key in (*_TEXTS, "seconds", "report")}
    values |= {key: tuple(texts) for key, texts in lists.items()}
    return EngineRecord(**values, profile=_profile(name, entry["profile"]))


def _profile(name: str, value: Any) -> tuple[int, int, int]:
    whole = isinstance(value, list) and len(value) == 3 and all(type(n) is int for n in value)
    if not whole or not 1 <= value[0] <= value[1] <= value[2]:
        raise ValueError(f"engine {name}: 'profile' must be three batch sizes that do not fall")
    return value[0], value[1], value[2]
