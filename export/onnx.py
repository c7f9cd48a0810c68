"""PyTorch to one ONNX file with a dynamic batch, cleaned of anything that names a machine."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from pathlib import Path

import onnx
import torch
from torch import nn

from poster_edge.errors import PosterEdgeError
from poster_edge.export.cross_fusion_op import fuse_depths
from poster_edge.export.fold import fold_batchnorm
from poster_edge.files import write_atomic
from poster_edge.kernels.attention import exportable

INPUT, OUTPUT = "image", "logits"
#: 20 has GELU and LayerNormalization as single operators; every target reads it.
OPSET = 20


def export_onnx(
    model: nn.Module, size: int, path: Path, *, fused_to: tuple[Path, int] | None = None
) -> onnx.ModelProto:
    """Write ``model`` as ONNX: input ``image`` float32 (N, 3, S, S), output ``logits`` (N, C).

    BatchNorm is folded, weights that nothing reads are not written, attention is spelled out.

    Args:
        model: in any mode; it is not changed.
        size: S.
        path: written atomically.
        fused_to: also write a file in which each cross-fusion depth is one node, and the number of
            attention heads; see :mod:`poster_edge.export.cross_fusion_op`.

    Raises:
        PosterEdgeError: the exporter or the checker refuses the model.
    """
    example = torch.zeros(2, 3, size, size)
    folded = fold_batchnorm(model.cpu().float(), example)
    proto = _trace(folded, example)
    # Only a graph that still names the modules tells where a depth begins.
    fused = fuse_depths(proto, heads=fused_to[1]) if fused_to else None
    _finish(proto, path)
    if fused is not None and fused_to is not None:
        _finish(fused, fused_to[0])
    return proto


def _finish(proto: onnx.ModelProto, path: Path) -> None:
    _clean(proto)
    _check(proto)
    write_atomic(path, proto.SerializeToString())


def _trace(model: nn.Module, example: torch.Tensor) -> onnx.ModelProto:
    # The exporter reports to stdout, warnings and logging; only its failure concerns the user.
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), exportable(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                model,
                (example,),
                dynamo=True,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
                opset_version=OPSET,
                external_data=False,
                verbose=False,
            )
    except Exception as error:
        raise PosterEdgeError(f"torch cannot export the model to ONNX: {str(error).splitlines()[0]}") from error
    finally:
        logger.setLevel(level)
    assert program is not None
    return program.model_proto


def _clean(proto: onnx.ModelProto) -> None:
    """Drop stack traces, paths and unused initialisers; name the batch dimension."""
    del proto.metadata_props[:]
    proto.doc_string = ""
    graph = proto.graph
    graph.name = "poster_edge"
    graph.doc_string = ""
    del graph.metadata_props[:]
    for thing in (*graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        del thing.metadata_props[:]
        thing.doc_string = ""
    used = {name for node in graph.node for name in node.input} | {o.name for o in graph.output}
    kept = [t for t in graph.initializer if t.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"


def _check(proto: onnx.ModelProto) -> None:
    try:
        onnx.checker.check_model(proto, full_check=True)
    except Exception as error:
        raise PosterEdgeError(f"the exported graph fails ONNX's checker: {str(error).splitlines()[0]}") from error
    names = [i.name for i in proto.graph.input], [o.name for o in proto.graph.output]
    if names != ([INPUT], [OUTPUT]):
        raise PosterEdgeError(f"the exported graph has inputs and outputs {names}, expected {INPUT} and {OUTPUT}")
    left = [n.name for n in proto.graph.node if n.op_type == "BatchNormalization"]
    if left:
        raise PosterEdgeError(f"{len(left)} BatchNormalization nodes could not be folded: {', '.join(left[:5])}")
