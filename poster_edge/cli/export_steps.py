"""From a PyTorch model to the draft of a bundle: load, trace, compare."""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray

from poster_edge import __version__
from poster_edge.cli.export_draft import CARD_FILE, Draft
from poster_edge.config import Preprocess
from poster_edge.data.faces import load_faces
from poster_edge.data.preprocess import to_input
from poster_edge.errors import GateError, UnavailableError, UsageError
from poster_edge.export.card import model_card
from poster_edge.export.onnx import INPUT, OPSET, OUTPUT, export_onnx
from poster_edge.export.validate import Comparison, compare
from poster_edge.files import write_atomic
from poster_edge.labels import LABEL_SETS
from poster_edge.models.ablation import SEPARATOR
from poster_edge.models.build import build_network
from poster_edge.models.checkpoint import ModelInfo, load_model, save_checkpoint
from poster_edge.models.config import model_config
from poster_edge.models.counting import count
from poster_edge.models.half import as_small_as_exact
from poster_edge.models.network import Network, live_parameters
from poster_edge.models.poster import Poster
from poster_edge.models.registry import REGISTRY
from poster_edge.runtime.bundle import MODEL_FILE, WEIGHTS_FILE, load_bundle, zoo_names
from poster_edge.runtime.manifest import RANDOM_WEIGHTS, Manifest
from poster_edge.vision.samples import sample_crops

#: Largest accepted difference of a logit over the largest logit, both in float32.
TOLERANCE = 1e-4
#: The graph in which each cross-fusion depth is one node, for a TensorRT plugin; no runtime here opens it.
FUSED_FILE = "model.fused-op.onnx"
#: Weights are packed beside the graph up to this size, so that a bundle can be exported again.
_MAX_PACKED_WEIGHTS = 16 << 20


def load_source(model: str | None, checkpoint: Path | None, *, random_weights: bool) -> tuple[Network, ModelInfo]:
    """The network and its conventions, from a checkpoint, a packaged model or thin air.

    Raises:
        UnavailableError: the named model comes without weights.
        UsageError, InputError: unknown name, unreadable checkpoint.
    """
    if checkpoint is not None:
        return load_model(checkpoint)
    assert model is not None
    config = model_config(model)
    if random_weights:
        labels = LABEL_SETS[REGISTRY[model.partition(SEPARATOR)[0]].trained_on]
        torch.manual_seed(0)
        config = model_config(model, num_classes=len(labels.classes))
        info = ModelInfo(model, labels.classes, config.preprocess(labels), labels.name, source=RANDOM_WEIGHTS)
        return build_network(config).eval(), info
    if model not in zoo_names():
        raise UnavailableError(
            f"{model} comes without weights; pass --checkpoint with what 'poster-edge train' or, for a published "
            "POSTER, 'poster-edge convert' wrote, or --random-weights to measure speed only"
        )
    bundle = load_bundle(model)
    bundle.read(WEIGHTS_FILE)
    return load_model(bundle.folder / WEIGHTS_FILE)


def comparison_inputs(preprocess: Preprocess, data: Path | None, count: int) -> list[NDArray[np.float32]]:
    """Batches of 1, 3 and 8 real faces, over and over, as the network is fed them."""
    if data is None:
        crops = sample_crops(preprocess)[:count]
    else:
        faces = load_faces(data)
        rows = np.random.default_rng(0).permutation(len(faces))[:count]
        crops = [faces.read(int(i)) for i in rows]
    batches: list[NDArray[np.float32]] = []
    start = 0
    while start < len(crops):
        size = (1, 3, 8)[len(batches) % 3]
        batches.append(to_input(crops[start : start + size], preprocess))
        start += size
    return batches


def trace(
    network: Network,
    info: ModelInfo,
    batches: list[NDArray[np.float32]],
    folder: Path,
    *,
    name: str,
    fused_op: bool = False,
) -> tuple[Draft, Comparison]:
    """Export to ONNX, compare with PyTorch, and lay out what goes into the bundle.

    Args:
        network: the model.
        info: its conventions.
        batches: real faces to compare on.
        folder: for the files, until the bundle is written.
        name: of the bundle's model in messages.
        fused_op: also write :data:`FUSED_FILE`.

    Raises:
        GateError: a graph does not compute what PyTorch computes.
        UsageError: ``fused_op`` for a network without cross-fusion.
    """
    graph, fused = folder / MODEL_FILE, folder / FUSED_FILE
    fused_to = (fused, _fusion_heads(network)) if fused_op else None
    export_onnx(network, network.config.input_size, graph, fused_to=fused_to)
    parity = compare(_torch_model(network), _onnx_model(graph), batches, tolerance=TOLERANCE)
    if not parity:
        raise GateError(f"the exported graph differs from PyTorch: {parity}; nothing was written")
    files = {MODEL_FILE: graph}
    if fused_op:
        files[FUSED_FILE] = fused
        same = compare(_torch_model(network), _onnx_model(fused), batches, tolerance=TOLERANCE)
        if not same:
            raise GateError(f"the graph with fused nodes differs from PyTorch: {same}; nothing was written")
    weights = as_small_as_exact(network.state_dict())
    if sum(v.numel() * v.element_size() for v in weights.values()) <= _MAX_PACKED_WEIGHTS:
        files[WEIGHTS_FILE] = folder / WEIGHTS_FILE
        save_checkpoint(files[WEIGHTS_FILE], weights, info)
    files[CARD_FILE] = folder / CARD_FILE
    card = model_card(name, info.classes, info.dataset, info.training, _facts(network, info, parity))
    write_atomic(files[CARD_FILE], card)
    manifest = Manifest(
        model=name,
        classes=info.classes,
        preprocess=info.preprocess,
        artefacts={},
        input_name=INPUT,
        output_name=OUTPUT,
        temperature=info.temperature,
        dataset=info.dataset,
        source=info.source,
        training=info.training,
        parity=parity.to_dict(),
        tools=_tools(),
    )
    return Draft(manifest, files), parity


def _fusion_heads(network: Network) -> int:
    """Attention heads of the cross-fusion.

    Raises:
        UsageError: the network has none.
    """
    if not isinstance(network, Poster):
        raise UsageError(f"--fused-op is for POSTER's cross-fusion; {network.config.variant} has none")
    if not network.config.as_published:
        raise UsageError(f"--fused-op is for the published cross-fusion; {network.config.variant} has another")
    return network.config.heads


def _torch_model(network: Network) -> Callable[[NDArray[np.float32]], NDArray[Any]]:
    def run(batch: NDArray[np.float32]) -> NDArray[Any]:
        with torch.no_grad():
            return network(torch.from_numpy(batch)).numpy()

    return run


def _onnx_model(path: Path) -> Callable[[NDArray[np.float32]], NDArray[Any]]:
    session = ort.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    return lambda batch: np.asarray(session.run([OUTPUT], {INPUT: batch})[0])


def _facts(network: Network, info: ModelInfo, parity: Comparison) -> dict[str, str]:
    config = network.config
    # A variant for an ablation is no entry of the registry: it is counted.
    flops = REGISTRY[info.model].flops if info.model in REGISTRY else count(config).flops
    return {
        "network": f"{info.model}: {config.description}",
        "input": f"float32 (N, 3, {config.input_size}, {config.input_size}), {info.preprocess.colour}",
        "output": f"logits (N, {len(info.classes)}); temperature {info.temperature:.3f}",
        "parameters used": f"{live_parameters(network):,}",
        "FLOPs (2 per multiply-add)": f"{flops / 1e6:,.0f} M",
        "weights": info.source,
        "ONNX against PyTorch": str(parity),
    }


def _tools() -> dict[str, str]:
    versions = {"poster-edge": __version__, "opset": str(OPSET)}
    return {**versions, **{n: metadata.version(n) for n in ("torch", "onnx", "onnxscript", "onnxruntime", "numpy")}}
