"""The published POSTER checkpoints: read safely, recognised by their keys, loaded strictly.

A published file is a pickle: a dictionary with ``model_state_dict``, whose entries may begin with
``module.``.  It is read with ``weights_only=True``: no code of the file runs.
"""

from __future__ import annotations

import pickle
import re
import struct
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from poster_edge.errors import InputError, UsageError
from poster_edge.labels import LabelSet
from poster_edge.models.checkpoint import OURS, ModelInfo, describe_source, strict_load
from poster_edge.models.poster import Poster
from poster_edge.models.poster_config import POSTER_CONFIGS, PosterConfig

_STAGE = re.compile(r"pyramid_fuse\.blocks\.(\d+)\.")
#: What the reader of a damaged file runs into, depending on where it is damaged.
_DAMAGED = (
    OSError,
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    AttributeError,
    TypeError,
    AssertionError,
    struct.error,
    zipfile.BadZipFile,
)
_CONTAINERS = ("model_state_dict", "state_dict", "model")


def read_official(path: Path) -> dict[str, Tensor]:
    """State dict of a published checkpoint, ``module.`` prefixes removed.

    Raises:
        InputError: missing, no checkpoint, or needs code to be unpickled.
    """
    if not path.is_file():
        raise InputError(f"no such checkpoint: {path}")
    _refuse_ours(path)
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path}: not a plain checkpoint of tensors; it would run code of its own when read, so it is refused "
            f"({_first_line(error)})"
        ) from error
    except _DAMAGED as error:
        raise InputError(f"{path}: not a readable checkpoint ({_first_line(error)})") from error
    return _state_dict(loaded, path)


def recognise(state: dict[str, Tensor], source: str) -> PosterConfig:
    """Find variant and class count of a published state dict from its keys.

    Raises:
        InputError: it is no POSTER checkpoint.
    """
    stages = {int(m.group(1)) for k in state if (m := _STAGE.match(k))}
    head = state.get("head.linear.weight")
    if not stages or head is None or head.ndim != 2:
        raise InputError(f"{source}: no POSTER checkpoint (needs pyramid_fuse.blocks.N and head.linear.weight)")
    depth = max(stages) + 1
    mix = any(".conv." in k and k.startswith("pyramid_fuse.blocks.") for k in state)
    published = [c for c in POSTER_CONFIGS if c.input_size == 224]
    for config in published:
        if (config.depth, config.mix) == (depth, mix):
            return replace(config, num_classes=head.shape[0])
    known = ", ".join(f"{c.variant} ({c.depth})" for c in published)
    raise InputError(f"{source}: depth {depth} is none of the published ones: {known}")


def load_official(path: Path, labels: LabelSet) -> tuple[Poster, ModelInfo]:
    """Load a published checkpoint with the label order and the preprocessing of its data set.

    Args:
        path: the published ``.pth``.
        labels: conventions of the data set it was trained on.

    Raises:
        InputError: not readable, not POSTER, or entries missing or misshapen (they are named).
        UsageError: the data set has another number of classes.
    """
    state = read_official(path)
    config = recognise(state, str(path))
    if config.num_classes != len(labels.classes):
        raise UsageError(
            f"{path} has {config.num_classes} classes but --dataset {labels.name} has {len(labels.classes)}"
        )
    model = Poster(config)
    strict_load(model, state, str(path))
    return model.eval(), ModelInfo(
        model=config.variant,
        classes=labels.classes,
        preprocess=config.preprocess(labels),
        dataset=labels.name,
        source=describe_source(path),
    )


def _refuse_ours(path: Path) -> None:
    """Refuse a file of this project: it says itself what its classes are, which a published one does not.

    Raises:
        InputError: it is one.
    """
    try:
        with safe_open(path, framework="pt") as file:
            made_by = (file.metadata() or {}).get("format", "")
    except (SafetensorError, OSError, ValueError):
        return
    if made_by.startswith(OURS):
        raise InputError(
            f"{path}: made by poster-edge, so it is no published file and needs no conversion; it goes as it is to "
            "export --checkpoint, eval --model, train --init or --teacher"
        )


def _state_dict(loaded: Any, path: Path) -> dict[str, Tensor]:
    for name in _CONTAINERS:
        if isinstance(loaded, dict) and isinstance(loaded.get(name), dict):
            loaded = loaded[name]
            break
    if not isinstance(loaded, dict) or not loaded or not all(isinstance(v, Tensor) for v in loaded.values()):
        raise InputError(f"{path}: holds no state dict (looked for {', '.join(_CONTAINERS)} and for bare tensors)")
    return {str(k).removeprefix("module."): v for k, v in loaded.items()}


def _first_line(error: BaseException) -> str:
    line = str(error).strip().partition("\n")[0][:200]
    # torch tells of some damage by the number of the byte that it stumbled over, and nothing else.
    return line if any(c.isalpha() for c in line) else "damaged, or no file that torch saved"
