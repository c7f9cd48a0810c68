"""Checkpoints of this project: safetensors with everything that is needed to use the weights.

The metadata names the model, the ordered classes and the preprocessing, so that label order and
colour order cannot be guessed wrongly later.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save_file
from torch import Tensor

from poster_edge.config import Preprocess
from poster_edge.errors import InputError
from poster_edge.files import atomic_path, sha256
from poster_edge.models.build import build_network
from poster_edge.models.config import model_config
from poster_edge.models.network import Network

FORMAT = "poster-edge/1"
#: How the formats of all files of this project begin, the state of a training run among them.
OURS = "poster-edge"


@dataclass(frozen=True)
class ModelInfo:
    """What a checkpoint says about itself.

    Attributes:
        model: name of the configuration.
        classes: ordered class names.
        preprocess: how a crop becomes its input.
        dataset: name of the data set's conventions.
        temperature: divides the logits before the softmax.
        training: records of the training: metrics, recipe, data; free form.
        source: file name and SHA-256 of the file it was converted from or "".
    """

    model: str
    classes: tuple[str, ...]
    preprocess: Preprocess
    dataset: str
    temperature: float = 1.0
    training: dict[str, Any] = field(default_factory=dict)
    source: str = ""

    def to_metadata(self) -> dict[str, str]:
        """Strings for the safetensors header."""
        return {
            "format": FORMAT,
            "model": self.model,
            "classes": json.dumps(self.classes),
            "preprocess": json.dumps(self.preprocess.to_dict()),
            "dataset": self.dataset,
            "temperature": repr(self.temperature),
            "training": json.dumps(self.training),
            "source": self.source,
        }

    @classmethod
    def from_metadata(cls, values: dict[str, str], path: Path) -> ModelInfo:
        """Read what :meth:`to_metadata` wrote.

        Raises:
            InputError: not a checkpoint of this project; says what to do.
        """
        found = values.get("format", "")
        if found.startswith(f"{OURS}-state"):
            raise InputError(f"{path}: the state of a training run; its weights are in best.safetensors beside it")
        if found != FORMAT:
            raise InputError(
                f"{path}: safetensors without poster-edge metadata; convert the published .pth: 'poster-edge convert'"
            )
        try:
            info = cls(
                model=values["model"],
                classes=tuple(json.loads(values["classes"])),
                preprocess=Preprocess.from_dict(json.loads(values["preprocess"])),
                dataset=values["dataset"],
                temperature=float(values["temperature"]),
                training=json.loads(values["training"]),
                source=values["source"],
            )
            info._check()
        except (KeyError, ValueError, TypeError, RecursionError) as error:
            raise InputError(f"{path}: damaged metadata ({error})") from error
        return info

    def _check(self) -> None:
        """Refuse what no bundle could be made of.

        Raises:
            ValueError: says what.
        """
        names = all(isinstance(c, str) and c for c in self.classes)
        if not names or len(self.classes) < 2 or len(set(self.classes)) != len(self.classes):
            raise ValueError(f"classes {self.classes}, expected two names or more, each once")
        if not 0.01 <= self.temperature <= 100:
            raise ValueError(f"temperature {self.temperature}, expected 0.01 to 100")
        if not isinstance(self.training, dict):
            raise ValueError("training is no object")


def save_checkpoint(path: Path, state: dict[str, Tensor], info: ModelInfo) -> None:
    """Write weights and metadata atomically."""
    with atomic_path(path) as temporary:
        save_file({k: v.detach().cpu().contiguous() for k, v in state.items()}, temporary, info.to_metadata())


def read_info(path: Path) -> ModelInfo:
    """What a checkpoint says about itself, without its weights.

    Raises:
        InputError: missing, damaged, or not made by this project.
    """
    with _opened(path) as file:
        return ModelInfo.from_metadata(file.metadata() or {}, path)


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], ModelInfo]:
    """Read weights and metadata.

    Raises:
        InputError: missing, damaged, or not made by this project.
    """
    with _opened(path) as file:
        info = ModelInfo.from_metadata(file.metadata() or {}, path)
        return {name: file.get_tensor(name) for name in file.keys()}, info  # noqa: SIM118 (not a dict)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    if not path.is_file():
        raise InputError(f"no such checkpoint: {path}")
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError, ValueError) as error:
        pickled = path.suffix in (".pth", ".pt", ".tar", ".ckpt")
        hint = "; a published POSTER becomes one by: poster-edge convert" if pickled else ""
        raise InputError(f"{path}: not a readable safetensors file ({error}){hint}") from error


def parse_checkpoint(data: bytes, path: Path) -> tuple[dict[str, Tensor], ModelInfo]:
    """Weights and metadata of a checkpoint that has been read already.

    Args:
        data: the whole file.
        path: names it in messages.

    Raises:
        InputError: damaged, or not made by this project.
    """
    try:
        state = load(data)
        # Past this the header is known to be sound: its length in 8 bytes, then JSON.
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    except (SafetensorError, ValueError) as error:
        raise InputError(f"{path}: not a readable safetensors file ({error})") from error
    return state, ModelInfo.from_metadata(header.get("__metadata__") or {}, path)


def strict_load(model: torch.nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Load weights; every entry must be there and of the right shape.

    Raises:
        InputError: names the first missing, unexpected and misshapen entries.
    """
    own = model.state_dict()
    problems = [f"missing {k}" for k in own if k not in state]
    problems += [f"unexpected {k}" for k in state if k not in own]
    problems += [
        f"{k} is {tuple(v.shape)}, expected {tuple(own[k].shape)}"
        for k, v in state.items()
        if k in own and v.shape != own[k].shape
    ]
    if problems:
        shown = "; ".join(problems[:6]) + (f"; and {len(problems) - 6} more" if len(problems) > 6 else "")
        raise InputError(f"{source}: {len(problems)} entries do not fit the model: {shown}")
    model.load_state_dict(state)


def load_model(path: Path) -> tuple[Network, ModelInfo]:
    """Build the model that a checkpoint of this project describes, in evaluation mode.

    Raises:
        InputError: see :func:`read_checkpoint` and :func:`strict_load`.
    """
    state, info = read_checkpoint(path)
    return build_model(state, info, str(path)), info


def build_model(state: dict[str, Tensor], info: ModelInfo, source: str) -> Network:
    """The network that a checkpoint describes, with its weights, in evaluation mode.

    Args:
        state: its weights.
        info: what it says about itself.
        source: names it in messages.

    Raises:
        InputError: see :func:`strict_load`.
    """
    model = build_network(model_config(info.model, num_classes=len(info.classes)))
    strict_load(model, state, source)
    return model.eval()


def describe_source(path: Path) -> str:
    """File name and SHA-256, for provenance."""
    return f"{path.name} sha256:{sha256(path)}"
