"""A checkpoint of this project seen as a bundle, for the one runtime that needs nothing else: torch."""

from __future__ import annotations

import json
from pathlib import Path

from poster_edge.errors import InputError, UsageError
from poster_edge.files import sha256
from poster_edge.models.config import model_config
from poster_edge.runtime.bundle import Bundle, load_bundle
from poster_edge.runtime.manifest import Artefact, Manifest

SUFFIX = ".safetensors"
#: A header of ours has some thousand entries of less than 200 bytes.
_MAX_HEADER = 16 << 20


def load_bundle_or_checkpoint(name_or_path: str | Path, *, runtime: str) -> Bundle:
    """Open a bundle, or, for the torch runtime, a ``.safetensors`` checkpoint as one.

    Args:
        name_or_path: of a packaged bundle, its folder, or a checkpoint's file.
        runtime: one of ``RUNTIMES``.

    Raises:
        UsageError: a checkpoint with another runtime, which needs its export.
        InputError: a damaged checkpoint.
        BundleError: see :func:`poster_edge.runtime.bundle.load_bundle`.
    """
    path = Path(name_or_path)
    if path.suffix != SUFFIX or not path.is_file():
        return load_bundle(name_or_path)
    if runtime != "torch":
        raise UsageError(
            f"{path} is a checkpoint: run it with --runtime torch, or make a bundle of it, "
            f"which every runtime takes: poster-edge export --checkpoint {path}"
        )
    return checkpoint_bundle(path)


def checkpoint_bundle(path: Path) -> Bundle:
    """A bundle whose one file is the checkpoint; classes, preprocessing and temperature are the checkpoint's.

    Raises:
        InputError: not a checkpoint of this project.
    """
    # torch comes with it, and only the torch runtime asks.
    from poster_edge.models.checkpoint import ModelInfo

    # A bundle takes no links; whoever names a checkpoint himself may.
    path = path.resolve()
    info = ModelInfo.from_metadata(_metadata(path), path)
    model_config(info.model)
    manifest = Manifest(
        model=info.model,
        classes=info.classes,
        preprocess=info.preprocess,
        artefacts={path.name: Artefact(sha256(path), path.stat().st_size)},
        temperature=info.temperature,
        dataset=info.dataset,
        source=info.source,
        training=info.training,
    )
    return Bundle(path.parent, manifest)


def _metadata(path: Path) -> dict[str, str]:
    """The strings in a safetensors file's header."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length)) if length <= _MAX_HEADER else None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a readable safetensors file ({error})") from error
    if not isinstance(header, dict) or not isinstance(header.get("__metadata__", {}), dict):
        raise InputError(f"{path}: not a readable safetensors file (its header is damaged)")
    return dict(header.get("__metadata__", {}))
