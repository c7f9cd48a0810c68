"""What the plugin is called in a graph and in TensorRT's registry; needs no torch, as devices do not have it."""

from __future__ import annotations

#: TensorRT's name, namespace and version of the plugin; the first two are the ONNX node's operator and domain as well.
NAME, NAMESPACE, VERSION = "CrossFusionDepth", "poster_edge", "1"
#: Entry of a graph's metadata: nodes that stay in float32, as FP16 cannot hold their values, one a line.
FLOATS = "poster_edge.fp32_nodes"
#: Precision of a plugin's kernels -> type of what it takes and gives; "w8a16" has INT8 weights.
PLUGIN_PRECISIONS = {"fp32": "fp32", "fp16": "fp16", "w8a16": "fp16"}
