"""``poster-edge kernels graph``: from a bundle's graph with fused nodes to one for the TensorRT plugin."""

from __future__ import annotations

from pathlib import Path

import onnx

from poster_edge.cli.export_steps import FUSED_FILE
from poster_edge.data.preprocess import to_input
from poster_edge.errors import PosterEdgeError, UsageError
from poster_edge.export.cross_fusion_op import DOMAIN
from poster_edge.export.fp16 import input_range, overflow_islands, to_fp16
from poster_edge.export.plugin_graph import plugin_graph
from poster_edge.files import write_atomic
from poster_edge.runtime.bundle import load_bundle
from poster_edge.runtime.manifest import BundleError
from poster_edge.vision.samples import sample_crops


def write_graph(folder: Path, *, precision: str, output: Path) -> int:
    """Rewrite a bundle's graph for the plugin.

    Args:
        folder: a bundle of ``export --fused-op``.
        precision: of the plugin; what is outside it becomes FP16, unless this is "fp32".
        output: file to write.

    Returns:
        its size in bytes.

    Raises:
        BundleError: the bundle has no graph with fused nodes.
        UsageError: ``output`` exists.
        PosterEdgeError: values in the cross-fusion come near the end of FP16's range.
    """
    if output.exists():
        raise UsageError(f"{output} exists; choose another -o")
    bundle = load_bundle(folder)
    if FUSED_FILE not in bundle.manifest.artefacts:
        raise BundleError(f"{bundle.folder}: has no {FUSED_FILE}; export the model with --fused-op")
    model = onnx.load_from_string(bundle.read(FUSED_FILE))
    result = plugin_graph(model, precision=precision)
    if precision != "fp32":
        preprocess = bundle.manifest.preprocess
        faces = to_input(sample_crops(preprocess), preprocess)
        # Of a depth's node its levels are looked at; what is inside it is the kernels' own, in float32 sums.
        islands = set(overflow_islands(model, [faces]))
        fused = {n.name for n in model.graph.node if n.domain == DOMAIN}
        if islands & fused:
            raise PosterEdgeError(
                f"values in {', '.join(sorted(islands & fused))} come near the end of FP16's range: "
                "use --precision fp32"
            )
        result = to_fp16(result, islands=islands, input_range=input_range(preprocess.mean, preprocess.std))
    data = result.SerializeToString()
    write_atomic(output, data)
    return len(data)
