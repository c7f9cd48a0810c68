"""``poster-edge kernels graph``: from a bundle's graph with fused nodes to one for the TensorRT plugin."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx

from poster_edge.cli.export_draft import reopen_whole
from poster_edge.cli.export_steps import FUSED_FILE
from poster_edge.data.preprocess import to_input
from poster_edge.errors import PosterEdgeError, UsageError
from poster_edge.export.cross_fusion_op import DOMAIN
from poster_edge.export.fp16 import input_range, overflow_islands, to_fp16
from poster_edge.export.plugin_graph import plugin_graph
from poster_edge.files import check_place, scratch_folder, write_atomic
from poster_edge.kernels.plugin.names import FLOATS
from poster_edge.runtime.bundle import Bundle, load_bundle, write_bundle
from poster_edge.runtime.manifest import PLUGIN_FILES, BundleError
from poster_edge.vision.samples import sample_crops


def write_graph(folder: Path, *, precision: str, output: Path | None) -> tuple[Path, int]:
    """Rewrite a bundle's graph for the plugin, into a file of its own or into the bundle.

    Args:
        folder: a bundle of ``export --fused-op``.
        precision: of the plugin; what is outside it becomes FP16, unless this is "fp32".
        output: file to write; None: the bundle gets the graph, in place of an earlier one.

    Returns:
        the file and its size in bytes.

    Raises:
        BundleError: the bundle has no graph with fused nodes, or one of its files is damaged.
        UsageError: ``output`` exists.
        PosterEdgeError: values in the cross-fusion come near the end of FP16's range, or nothing can be written.
    """
    bundle = load_bundle(folder)
    if output is None:
        check_place(bundle.folder)
    elif output.exists():
        raise UsageError(f"{output} exists; choose another -o")
    data = _rewritten(bundle, precision)
    if output is None:
        output = _put_in(bundle, PLUGIN_FILES[precision], data)
    else:
        write_atomic(output, data)
    return output, len(data)


def _rewritten(bundle: Bundle, precision: str) -> bytes:
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
        # Whoever verifies an engine of it must know them, on a device without the package onnx too.
        onnx.helper.set_model_props(result, {FLOATS: "\n".join(sorted(islands))})
    return result.SerializeToString()


def _put_in(bundle: Bundle, name: str, data: bytes) -> Path:
    """The bundle with one more file, or another one in its place; engines made of an earlier one go."""
    with scratch_folder() as scratch:
        draft = reopen_whole(bundle, scratch)
        stale = {n for n, record in draft.manifest.engines.items() if record.model == name}
        files = {n: p for n, p in draft.files.items() if n not in stale}
        engines = {n: r for n, r in draft.manifest.engines.items() if n not in stale}
        files[name] = scratch / name
        write_atomic(files[name], data)
        manifest = replace(draft.manifest, engines=engines)
        write_bundle(bundle.folder, manifest, files, temperatures=draft.temperatures, force=True)
    return bundle.folder / name
