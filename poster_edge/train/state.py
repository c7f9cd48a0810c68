"""State of a run in safetensors: any nest of plain values and tensors, no pickle, written whole or not at all.

Tensors are entries of the file; the nest they lie in is JSON in its header.
"""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from poster_edge.errors import InputError
from poster_edge.files import atomic_path

FORMAT = "poster-edge-state/1"
#: Settings of an optimiser that follow from the device, not from the run.
_OWN = ("lr", "fused", "capturable", "foreach")
_TENSOR, _TUPLE, _PAIRS = "$tensor", "$tuple", "$pairs"


def save_state(path: Path, state: Any) -> None:
    """Write a nest of dicts, lists, tuples, numbers, texts, booleans, None and tensors.

    Raises:
        PosterEdgeError: the folder cannot be written or the disk is full.
    """
    tensors: dict[str, Tensor] = {}
    tree = _packed(state, "", tensors)
    header = {"format": FORMAT, "tree": json.dumps(tree)}
    with atomic_path(path) as temporary:
        save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, temporary, header)


def load_state(path: Path, device: str = "cpu") -> Any:
    """Read what :func:`save_state` wrote: equal to the bit, types included; or an older state, a ``.pt`` of tensors.

    Raises:
        InputError: missing, damaged, or something else.
    """
    if path.suffix == ".pt":
        return _older(path, device)
    try:
        with safe_open(path, framework="pt", device=device) as file:
            header = file.metadata() or {}
            if header.get("format") != FORMAT:
                raise InputError(f"{path}: not the state of a training run")
            return _unpacked(json.loads(header["tree"]), file.get_tensor)
    except FileNotFoundError as error:
        raise InputError(f"no such file: {path}") from error
    except (SafetensorError, OSError, ValueError, LookupError) as error:
        raise InputError(f"{path}: not readable ({error})") from error


def _older(path: Path, device: str) -> Any:
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, LookupError, pickle.UnpicklingError) as error:
        raise InputError(f"{path}: not readable ({(str(error) or type(error).__name__).splitlines()[0]})") from error


def _packed(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        tensors[name] = value
        return {_TENSOR: name}
    if isinstance(value, dict):
        # JSON's keys are texts; an optimiser's state goes by number.
        pairs = [[k, _packed(v, f"{name}/{k}" if name else str(k), tensors)] for k, v in value.items()]
        return {_PAIRS: pairs}
    if isinstance(value, list | tuple):
        items = [_packed(v, f"{name}/{i}" if name else str(i), tensors) for i, v in enumerate(value)]
        return items if isinstance(value, list) else {_TUPLE: items}
    return value


def _unpacked(tree: Any, tensor: Any) -> Any:
    if isinstance(tree, list):
        return [_unpacked(v, tensor) for v in tree]
    if not isinstance(tree, dict):
        return tree
    ((kind, value),) = tree.items()
    if kind == _TENSOR:
        return tensor(value)
    if kind == _TUPLE:
        return tuple(_unpacked(v, tensor) for v in value)
    return {k: _unpacked(v, tensor) for k, v in value}


def restore_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load an optimiser's moments and counts; how and where it computes stays as it is.

    Moments come to lie in memory as their parameters do, which fast paths ask for.

    Raises:
        ValueError: the state belongs to other parameters.
    """
    kept = [{k: v for k, v in group.items() if k in _OWN} for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, own in zip(optimizer.param_groups, kept, strict=True):
        group.update(own)
        for parameter in group["params"]:
            moments = optimizer.state.get(parameter, {})
            for name, value in moments.items():
                if name == "step":
                    moments[name] = value.to(parameter.device if group.get("capturable") else "cpu")
                elif isinstance(value, Tensor):
                    moments[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
