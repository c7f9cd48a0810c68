"""The manifest of a bundle: everything a runtime must know, checked entry by entry."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from poster_edge.config import Preprocess
from poster_edge.errors import InputError, UnavailableError
from poster_edge.runtime.engine_record import EngineRecord, parse_engines

SCHEMA = 2
FILE_NAME = "manifest.json"
_MAX_BYTES = 1 << 20
_ARTEFACT_NAME = re.compile(r"(engines/)?[A-Za-z0-9][A-Za-z0-9._-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class BundleError(UnavailableError):
    """A bundle is missing, damaged or of another version; exit code 4."""


@dataclass(frozen=True)
class Artefact:
    """One file of a bundle.

    Attributes:
        sha256: of its content.
        bytes: its size.
        precision: "fp32", "fp16" or "int8" for a model, "" for other files.
        placement: where an INT8 model is quantised, one of :data:`PLACEMENTS`; "" for other files.
        temperature: divides this model's logits before the softmax; None: the manifest's temperature.
    """

    sha256: str
    bytes: int
    precision: str = ""
    placement: str = ""
    temperature: float | None = None


#: File name of each model of a bundle -> its precision and, for INT8, where activations are quantised.
MODEL_FILES: dict[str, tuple[str, str]] = {
    "model.onnx": ("fp32", ""),
    "model.fp16.onnx": ("fp16", ""),
    "model.int8.onnx": ("int8", "inputs-outputs"),
    "model.int8-inputs.onnx": ("int8", "inputs"),
}
#: Precision of a TensorRT plugin's kernels -> file name of the graph for it, which no other runtime opens.
PLUGIN_FILES = {
    "fp32": "model.plugin-fp32.onnx",
    "fp16": "model.plugin-fp16.onnx",
    "w8a16": "model.plugin-w8a16.onnx",
}
PRECISIONS = ("fp32", "fp16", "int8")
#: "inputs-outputs": for onnxruntime's integer kernels; "inputs", with an FP16 rest: for TensorRT and OpenVINO.
PLACEMENTS = ("inputs-outputs", "inputs")


@dataclass(frozen=True)
class Manifest:
    """What a bundle says about itself.

    Attributes:
        model: name of the configuration, such as "poster-nano".
        classes: ordered class names; index i of the output is class i.
        preprocess: how a face crop becomes the network's input.
        artefacts: every file of the bundle but the manifest, by name.
        input_name: of the ONNX graph, float32 (N, 3, S, S), normalised.
        output_name: of the ONNX graph, logits (N, C).
        precision: of the model that runs when none is asked for.
        temperature: divides the logits before the softmax, unless a model's artefact has its own.
        dataset: name of the data set the weights were trained on.
        source: where the weights came from: file name and SHA-256, or "random weights".
        training: data, split, metrics and recipe of the training, as recorded there.
        parity: exported graph against PyTorch: images, largest and mean absolute error.
        gate: report of the accuracy gate, or None when none was run.
        calibration: of quantisation ranges, or None.
        tools: versions of everything that made the bundle.
        engines: file name of each TensorRT plan -> how it was built; absent from a manifest without any.
        task: what the model does.
        schema: version of this layout.
    """

    model: str
    classes: tuple[str, ...]
    preprocess: Preprocess
    artefacts: dict[str, Artefact]
    input_name: str = "image"
    output_name: str = "logits"
    precision: str = "fp32"
    temperature: float = 1.0
    dataset: str = ""
    source: str = ""
    training: dict[str, Any] = field(default_factory=dict)
    parity: dict[str, Any] = field(default_factory=dict)
    gate: dict[str, Any] | None = None
    calibration: dict[str, Any] | None = None
    tools: dict[str, str] = field(default_factory=dict)
    engines: dict[str, EngineRecord] = field(default_factory=dict)
    task: str = "facial-expression-recognition"
    schema: int = SCHEMA

    @property
    def has_trained_weights(self) -> bool:
        """False for bundles made to measure speed only."""
        return self.source != RANDOM_WEIGHTS

    def to_json(self) -> str:
        """Text of ``manifest.json``."""
        values = asdict(self)
        if not self.engines:
            del values["engines"]
        return json.dumps(values, indent=1, ensure_ascii=False) + "\n"


#: Value of ``Manifest.source`` for bundles without trained weights.
RANDOM_WEIGHTS = "random weights"


def read_manifest(folder: Path) -> Manifest:
    """Read and check ``manifest.json`` of a bundle.

    Raises:
        BundleError: missing, damaged, or of another schema; says which entry is wrong.
    """
    path = folder / FILE_NAME
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise BundleError(f"{path}: larger than {_MAX_BYTES} bytes, not a manifest")
        values = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise BundleError(f"{folder} is no bundle: it has no {FILE_NAME}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{path}: damaged ({error}); export the bundle again") from error
    try:
        return _from_dict(values)
    except (InputError, TypeError, ValueError) as error:
        raise BundleError(f"{path}: {error}; export the bundle again") from error


#: Entries that are not taken as they are.
_PARSED = ("classes", "preprocess", "artefacts", "engines", "temperature")


def _from_dict(values: Any) -> Manifest:
    if not isinstance(values, dict):
        raise ValueError("not a JSON object")
    if values.get("schema") != SCHEMA:
        raise ValueError(f"schema {values.get('schema')!r}, this version of poster-edge reads schema {SCHEMA}")
    known = {f.name for f in fields(Manifest)}
    values = {"engines": {}, **values}
    if wrong := sorted(set(values) ^ known):
        raise ValueError(f"unexpected or missing entries: {', '.join(wrong)}")
    _check_types(values)
    artefacts = {name: _artefact(name, entry) for name, entry in values["artefacts"].items()}
    rest = {k: v for k, v in values.items() if k not in _PARSED}
    return Manifest(
        classes=tuple(values["classes"]),
        preprocess=Preprocess.from_dict(values["preprocess"]),
        artefacts=artefacts,
        engines=parse_engines(values["engines"], set(artefacts)),
        temperature=float(values["temperature"]),
        **rest,
    )


def _check_types(values: dict[str, Any]) -> None:
    for name in ("model", "input_name", "output_name", "dataset", "source", "task"):
        if not isinstance(values[name], str):
            raise ValueError(f"'{name}' must be text")
    for name in ("preprocess", "artefacts", "training", "parity", "tools"):
        if not isinstance(values[name], dict):
            raise ValueError(f"'{name}' must be an object")
    for name in ("gate", "calibration"):
        if not isinstance(values[name], dict | None):
            raise ValueError(f"'{name}' must be an object or null")
    classes = values["classes"]
    if not isinstance(classes, list) or len(classes) < 2 or not all(isinstance(c, str) and c for c in classes):
        raise ValueError("'classes' must list at least two names")
    if len(set(classes)) != len(classes):
        raise ValueError("'classes' names a class twice")
    if values["precision"] not in PRECISIONS:
        raise ValueError(f"'precision' is {values['precision']!r}, expected one of {', '.join(PRECISIONS)}")
    _check_temperature(values["temperature"])


def _check_temperature(temperature: Any) -> None:
    if isinstance(temperature, bool) or not isinstance(temperature, int | float) or not 0.01 <= temperature <= 100:
        raise ValueError(f"'temperature' is {temperature!r}, expected 0.01 to 100")


def _artefact(name: str, entry: Any) -> Artefact:
    if not _ARTEFACT_NAME.fullmatch(name) or name == FILE_NAME:
        raise ValueError(f"artefact {name!r} has no plain file name")
    if not isinstance(entry, dict) or set(entry) != {f.name for f in fields(Artefact)}:
        raise ValueError(f"artefact {name}: needs {', '.join(f.name for f in fields(Artefact))}")
    digest, size, precision = entry["sha256"], entry["bytes"], entry["precision"]
    if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
        raise ValueError(f"artefact {name}: sha256 must be 64 hexadecimal digits")
    if isinstance(size, bool) or not isinstance(size, int) or size < 0:
        raise ValueError(f"artefact {name}: bytes out of range")
    if (precision, entry["placement"]) != MODEL_FILES.get(name, ("", "")):
        raise ValueError(f"artefact {name}: precision or placement does not go with this name")
    if entry["temperature"] is not None:
        _check_temperature(entry["temperature"])
    return Artefact(**entry)
