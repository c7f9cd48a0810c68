"""What ``poster-edge eval`` tells about the network itself: its size and cost, and its features."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from poster_edge.data.faces import FaceSet
from poster_edge.errors import UsageError
from poster_edge.models.config import model_config
from poster_edge.models.registry import PAPER_FLOPS, REGISTRY
from poster_edge.optional import available, require
from poster_edge.runtime.bundle import WEIGHTS_FILE, Bundle

if TYPE_CHECKING:
    from poster_edge.models.checkpoint import ModelInfo
    from poster_edge.models.network import Network

#: t-SNE's time grows with the number of points; so many are shown at most.
MOST_POINTS = 2000
_FEWEST_POINTS = 10
_FEATURE_BATCH = 64


def size_and_cost(bundle: Bundle) -> dict[str, Any] | None:
    """Parameters and operations of a bundle's network; None where it is no known configuration.

    The registry's figures where they apply; anything else is built and counted, for which torch is needed.
    """
    name, classes = bundle.manifest.model, len(bundle.manifest.classes)
    try:
        config = model_config(name)
    except UsageError:
        return None
    if name in REGISTRY and config.num_classes == classes:
        facts = REGISTRY[name]
        counts = {"parameters": facts.parameters, "live_parameters": facts.live_parameters, "flops": facts.flops}
        return {**counts, "paper_flops": PAPER_FLOPS[name]}
    if not available("torch"):
        return None
    from poster_edge.models.counting import count

    found = asdict(count(replace(config, num_classes=classes)))
    return {k: v for k, v in found.items() if k != "fusion_parameters"}


def load_weights(
    bundle: Bundle, checkpoint: Path | None, *, purpose: str, option: str = "--checkpoint"
) -> tuple[Network, ModelInfo]:
    """The network with its weights, from a checkpoint or from the bundle itself.

    Args:
        bundle: as it was opened.
        checkpoint: a ``.safetensors`` file of the same model, or None.
        purpose: what the weights are for, put into the message: "--tsne".
        option: what takes a checkpoint, put into the message.

    Raises:
        UsageError: the bundle holds no weights and there is no checkpoint, or it is another model's.
        InputError: the checkpoint cannot be read.
    """
    for package in ("torch", "safetensors"):
        require(package, purpose=f"look into the network ({purpose})")
    from poster_edge.models.checkpoint import load_model

    if checkpoint is None:
        packed = WEIGHTS_FILE if WEIGHTS_FILE in bundle.manifest.artefacts else None
        packed = packed or next((n for n in bundle.manifest.artefacts if n.endswith(".safetensors")), None)
        if packed is None:
            raise UsageError(
                f"{purpose} looks into the network, so it needs PyTorch weights, and {bundle.folder} holds none (those "
                f"of a large model are not packed); pass the file it was exported from: {option} FILE.safetensors"
            )
        bundle.read(packed)
        return load_model(bundle.folder / packed)
    network, info = load_model(checkpoint)
    if (info.classes, info.preprocess) != (bundle.manifest.classes, bundle.manifest.preprocess):
        raise UsageError(
            f"{checkpoint} is {info.model} for {', '.join(info.classes)}: other classes or another preprocessing than "
            f"{bundle.folder} has, so it is not what the bundle was exported from"
        )
    return network, info


def features_of(network: Network, info: ModelInfo, faces: FaceSet, indices: NDArray[np.int64]) -> NDArray[np.float32]:
    """What the network's head classifies, (N, D), of face crops."""
    import torch

    from poster_edge.cli import console
    from poster_edge.data.preprocess import to_input

    found = []
    with console.progress_bar() as bar, torch.inference_mode():
        task = bar.add_task("features", total=len(indices))
        for start in range(0, len(indices), _FEATURE_BATCH):
            crops = [faces.read(int(i)) for i in indices[start : start + _FEATURE_BATCH]]
            found.append(network.features(torch.from_numpy(to_input(crops, info.preprocess))).numpy())
            bar.advance(task, len(crops))
    return np.concatenate(found)


def embed(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Features (N, D) in the plane, (N, 2), by t-SNE.

    Source: van der Maaten, Hinton, "Visualizing Data using t-SNE" (2008), as scikit-learn has it; seeded.

    Raises:
        UsageError: there are too few.
        UnavailableError: scikit-learn is missing.
    """
    manifold = require("sklearn.manifold", purpose="draw a t-SNE figure")
    if len(features) < _FEWEST_POINTS:
        raise UsageError(f"--tsne needs at least {_FEWEST_POINTS} images; {len(features)} were measured")
    perplexity = min(30.0, (len(features) - 1) / 3)
    tsne = manifold.TSNE(n_components=2, perplexity=perplexity, init="pca", learning_rate="auto", random_state=0)
    return np.asarray(tsne.fit_transform(features), np.float32)


def chosen_points(count: int) -> NDArray[np.int64]:
    """At most :data:`MOST_POINTS` of so many rows, at random (seeded), in order."""
    if count <= MOST_POINTS:
        return np.arange(count)
    return np.sort(np.random.default_rng(0).permutation(count)[:MOST_POINTS])
