"""The t-SNE figure of ``poster-edge eval``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from poster_edge.cli.eval_model import chosen_points, embed, features_of
from poster_edge.cli.eval_report import Measured
from poster_edge.data.faces import FaceSet
from poster_edge.vision.confusion import write_png
from poster_edge.vision.scatter import draw_scatter

if TYPE_CHECKING:
    from poster_edge.models.checkpoint import ModelInfo
    from poster_edge.models.network import Network


def draw_tsne(path: Path, network: Network, info: ModelInfo, faces: FaceSet, measured: Measured) -> dict[str, Any]:
    """Draw the features of the measured faces, and say what is in the picture.

    Args:
        path: PNG to write.
        network: whose features.
        info: its conventions.
        faces: the data set.
        measured: its rows that were read.
    """
    chosen = chosen_points(len(measured.labels))
    indices, labels = measured.rows.indices[measured.read][chosen], measured.labels[chosen]
    features = features_of(network, info, faces, indices)
    caption = f"{len(features)} faces of {faces.name}, features of {network.config.variant} by t-SNE"
    write_png(path, draw_scatter(embed(features), labels, info.classes, caption=caption))
    return {"file": path.name, "points": len(features), "width": features.shape[1]}
