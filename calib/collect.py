"""One pass over the calibration images: a histogram of every tensor that may be quantised."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from poster_edge.calib.histogram import StreamingHistogram
from poster_edge.errors import InputError
from poster_edge.export.graph import with_outputs


def collect(
    model: onnx.ModelProto,
    tensors: Sequence[str],
    batches: Iterable[NDArray[np.float32]],
    *,
    threads: int | None = None,
    tick: Callable[[int], None] = lambda images: None,
) -> dict[str, StreamingHistogram]:
    """Run a float32 model over images and count the magnitudes of some of its tensors.

    Memory depends on the size of one batch and on the number of tensors, not on the number of images.

    Args:
        model: one float32 input.
        tensors: names of activations, the input's own among them or not.
        batches: (N, 3, S, S) each, normalised.
        threads: of one operator; None leaves the choice to onnxruntime.
        tick: told the number of images of each batch that is done.

    Raises:
        InputError: there are no batches.
        PosterEdgeError: values that are not finite.
    """
    feed = model.graph.input[0].name
    inside = [t for t in tensors if t != feed]
    options = ort.SessionOptions()
    options.log_severity_level = 3
    # The arena keeps what the largest batch needed; without it memory follows what is alive.
    options.enable_cpu_mem_arena = False
    if threads:
        options.intra_op_num_threads = threads
    session = ort.InferenceSession(
        with_outputs(model, inside).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    histograms = {name: StreamingHistogram(name) for name in tensors}
    seen = 0
    for batch in batches:
        values = session.run(inside, {feed: batch})
        for name, value in zip(inside, values, strict=True):
            histograms[name].update(value)
        if feed in histograms:
            histograms[feed].update(batch)
        seen += len(batch)
        tick(len(batch))
    if not seen:
        raise InputError("there are no images to calibrate on")
    return histograms
