"""``calibration.json``: ranges of one graph from one set of images, and refused for any other."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from poster_edge.calib.histogram import StreamingHistogram
from poster_edge.calib.ranges import METHODS, all_ranges
from poster_edge.calib.suitability import ImageStatistics
from poster_edge.errors import UnavailableError
from poster_edge.files import write_atomic

SCHEMA = 1
FILE_NAME = "calibration.json"
_MAX_BYTES = 16 << 20


@dataclass(frozen=True)
class Calibration:
    """Ranges for INT8 and what they were found on.

    Attributes:
        graph_sha256: of the float32 ONNX file whose tensors these are.
        data_sha256: of the images' pixels, in order.
        data: name of the image set.
        images: how many were used.
        seed: of their selection.
        statistics: what the images look like; see :mod:`poster_edge.calib.suitability`.
        ranges: tensor -> method -> largest magnitude that INT8 keeps.
        schema: version of this layout.
    """

    graph_sha256: str
    data_sha256: str
    data: str
    images: int
    seed: int
    statistics: ImageStatistics
    ranges: dict[str, dict[str, float]]
    schema: int = SCHEMA

    def of(self, method: str) -> dict[str, float]:
        """Range of every tensor by one of ``METHODS``."""
        return {tensor: ranges[method] for tensor, ranges in self.ranges.items()}

    def check_fits(self, graph_sha256: str, *, data_sha256: str | None = None) -> None:
        """Refuse ranges of another graph or, where given, of other images.

        Raises:
            UnavailableError: says what differs.
        """
        if self.graph_sha256 != graph_sha256:
            raise UnavailableError(
                f"the calibration on '{self.data}' is of another graph ({self.graph_sha256[:12]}…, this one is "
                f"{graph_sha256[:12]}…); calibrate this one: --calib DATA"
            )
        if data_sha256 is not None and self.data_sha256 != data_sha256:
            raise UnavailableError(
                f"the calibration on '{self.data}' is of other images ({self.data_sha256[:12]}…, these are "
                f"{data_sha256[:12]}…); calibrate again"
            )

    def summary(self, method: str) -> dict[str, Any]:
        """What the manifest records."""
        return {
            "method": method,
            "data": self.data,
            "images": self.images,
            "seed": self.seed,
            "data_sha256": self.data_sha256,
            "graph_sha256": self.graph_sha256,
        }

    def to_json(self) -> str:
        """Text of ``calibration.json``."""
        return json.dumps(asdict(self), indent=1) + "\n"

    def write(self, path: Path) -> None:
        """Write it whole or not at all."""
        write_atomic(path, self.to_json())


def from_histograms(histograms: dict[str, StreamingHistogram]) -> dict[str, dict[str, float]]:
    """Ranges of all methods; single precision, which is what the graph will hold."""
    return {
        name: {method: float(f"{top:.7g}") for method, top in all_ranges(histogram).items()}
        for name, histogram in histograms.items()
    }


def parse_calibration(text: bytes | str, name: str) -> Calibration:
    """Read and check the content of a ``calibration.json``.

    Raises:
        UnavailableError: damaged, or of another version.
    """
    try:
        if len(text) > _MAX_BYTES:
            raise ValueError(f"larger than {_MAX_BYTES} bytes")
        values = json.loads(text)
        known = {f.name for f in fields(Calibration)}
        if not isinstance(values, dict) or set(values) != known:
            raise ValueError(f"expected an object with {', '.join(sorted(known))}")
        if values["schema"] != SCHEMA:
            raise ValueError(f"schema {values['schema']!r}, this version of poster-edge reads {SCHEMA}")
        _check_ranges(values["ranges"])
        return Calibration(**{**values, "statistics": ImageStatistics.from_dict(values["statistics"])})
    except (ValueError, TypeError, RecursionError) as error:
        raise UnavailableError(f"{name}: damaged ({error}); calibrate again: --calib DATA") from error


def _check_ranges(ranges: Any) -> None:
    if not isinstance(ranges, dict) or not ranges:
        raise ValueError("no ranges")
    for tensor, methods in ranges.items():
        if not isinstance(methods, dict) or set(methods) != set(METHODS):
            raise ValueError(f"'{tensor}' needs a range for each of {', '.join(METHODS)}")
        for top in methods.values():
            if isinstance(top, bool) or not isinstance(top, int | float) or not math.isfinite(top) or top < 0:
                raise ValueError(f"the range {top!r} of '{tensor}' is no finite number of 0 or more")
