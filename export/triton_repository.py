"""A Triton Inference Server model repository, written whole: network, labels, and an ensemble around it.

``NAME`` is the network as exported (``image`` float32 (N, 3, S, S) -> ``logits`` (N, C)).  Around it stand
``NAME-preprocess``, ``NAME-postprocess`` and ``NAME-faces``, the ensemble of the three: uint8 face crops
(N, S, S, 3) in BGR in, calibrated probabilities out.  The ensemble is sound because both steps are exact: see
``export.triton_graphs``; resizing and finding the faces stay with the client.

A TensorRT plan runs on one kind of GPU and one version of TensorRT, the server's, so it is not built here: the
repository carries the configuration, the ONNX file beside the plan's place, and the command that builds it.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from poster_edge.config import Preprocess
from poster_edge.errors import PosterEdgeError, UsageError
from poster_edge.export.pbtxt import dumps
from poster_edge.export.triton_check import CONFIG, validate_repository
from poster_edge.export.triton_config import (
    LABELS,
    ONNX,
    Signature,
    ensemble_config,
    network_config,
    signature,
    step_config,
)
from poster_edge.export.triton_graphs import PROBABILITIES, postprocess_graph, preprocess_graph
from poster_edge.export.triton_options import TritonOptions, check_name
from poster_edge.export.triton_readme import readme
from poster_edge.files import check_place, replace_folder, sweep, sync_folder, temporary_name

README = "README.md"


@dataclass(frozen=True)
class Served:
    """A model to be served.

    Attributes:
        name: of the model on the server.
        graph: content of its ONNX file.
        input_name: of the graph, float32 (N, 3, S, S), normalised.
        output_name: of the graph, logits (N, C).
        classes: ordered class names.
        preprocess: how a crop becomes the input.
        temperature: divides the logits before the softmax.
        precision: "fp32", "fp16" or "int8".
    """

    name: str
    graph: bytes
    input_name: str
    output_name: str
    classes: tuple[str, ...]
    preprocess: Preprocess
    temperature: float
    precision: str


def write_repository(folder: Path, served: Served, options: TritonOptions, *, force: bool = False) -> list[str]:
    """Write a repository into a temporary folder beside the target, check it, rename it.

    Args:
        folder: target; must not exist or be empty, unless ``force`` and it is a repository.
        served: the model.
        options: how it is to be served.
        force: replace an existing repository.

    Returns:
        What is still to be done; see :func:`poster_edge.export.triton_check.validate_repository`.

    Raises:
        UsageError: the target exists, the name is no plain name, or the precision would not be served.
        PosterEdgeError: the graph does not fit its description, or nothing can be written.
    """
    check_name(served.name)
    check_target(folder, force=force)
    options.check_precision(served.precision)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        sweep(folder.parent)
        temporary = temporary_name(folder)
        try:
            temporary.mkdir()
            _write_models(temporary, served, options)
            notes = validate_repository(temporary)
            _sync(temporary)
            replace_folder(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise PosterEdgeError(f"cannot write {folder}: {error.strerror or error}") from error
    return notes


def check_target(folder: Path, *, force: bool) -> None:
    """Refuse a target that holds something, before any long work.

    Raises:
        UsageError: it exists and is not to be (or cannot safely be) replaced.
        PosterEdgeError: nothing can be written there.
    """
    if not folder.name:
        raise UsageError(f"-o {folder}: expected the name of a new folder")
    check_place(folder)
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not folder.is_dir() or not (folder / README).is_file() or not any(folder.glob(f"*/{CONFIG}")):
        raise UsageError(f"{folder} exists and is no repository of poster-edge's making; choose another -o")
    if not force:
        raise UsageError(f"{folder} exists; pass --force to replace it, or choose another -o")


def _write_models(folder: Path, served: Served, options: TritonOptions) -> None:
    network = _signature(served)
    config = network_config(served.name, network, options, labelled=served.output_name)
    _write(folder, config, served.graph, served.classes)
    if options.ensemble:
        _write_ensemble(folder, served, network, options)
    text = readme(config, network, served.classes, options, interpolation=served.preprocess.interpolation)
    (folder / README).write_text(text, encoding="utf-8")


def _signature(served: Served) -> Signature:
    """Of the network, held against its description."""
    try:
        model = onnx.load_from_string(served.graph)
    except Exception as error:  # protobuf has its own exceptions
        raise PosterEdgeError(f"{served.name}: not an ONNX file ({type(error).__name__})") from error
    if any(t.data_location == onnx.TensorProto.EXTERNAL for t in model.graph.initializer):
        raise PosterEdgeError(f"{served.name}: its weights lie outside the file; export it again")
    found, size = signature(model), served.preprocess.size
    wanted = [(served.input_name, "TYPE_FP32", (3, size, size)), (served.output_name, "TYPE_FP32", _classes(served))]
    if [(t.name, t.data_type, t.dims) for t in (*found.inputs, *found.outputs)] != wanted:
        raise PosterEdgeError(f"{served.name}: the graph has {found}, its description says {wanted}")
    return found


def _classes(served: Served) -> tuple[int, ...]:
    return (len(served.classes),)


def _write_ensemble(folder: Path, served: Served, network: Signature, options: TritonOptions) -> None:
    before = preprocess_graph(served.preprocess, served.input_name)
    after = postprocess_graph(len(served.classes), served.temperature, served.output_name)
    first, last = signature(before), signature(after)
    names = [f"{served.name}-preprocess", served.name, f"{served.name}-postprocess"]
    _write(folder, step_config(names[0], first, options), before.SerializeToString(), ())
    config = step_config(names[2], last, options, labelled=PROBABILITIES)
    _write(folder, config, after.SerializeToString(), served.classes)
    steps = list(zip(names, (first, network, last), strict=True))
    outputs = (*last.outputs, *network.outputs)
    whole = ensemble_config(f"{served.name}-faces", steps, outputs, options.max_batch, labelled=PROBABILITIES)
    _write(folder, whole, None, served.classes)


def _write(folder: Path, config: dict[str, Any], graph: bytes | None, classes: tuple[str, ...]) -> None:
    """One model; an ensemble has an empty version folder, which the server asks for."""
    version = folder / config["name"] / "1"
    version.mkdir(parents=True)
    (version.parent / CONFIG).write_text(dumps(config), encoding="utf-8")
    if graph is not None:
        (version / ONNX).write_bytes(graph)
    if classes:
        (version.parent / LABELS).write_text("".join(f"{c}\n" for c in classes), encoding="utf-8")


def _sync(folder: Path) -> None:
    """Flush everything, so that the name is not on the disk before the content."""
    for path in folder.rglob("*"):
        if path.is_dir():
            sync_folder(path)
        else:
            with path.open("rb") as file:
                os.fsync(file.fileno())
    sync_folder(folder)
