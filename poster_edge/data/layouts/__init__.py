"""The layouts in which data sets are published: which one a path is, and its faces.

Every reader checks what it finds and names the file and the remedy.  Label orders follow
:data:`poster_edge.labels.LABEL_SETS`, never the order of folders.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from poster_edge.data.faces import FaceSet
from poster_edge.data.layouts import affectnet, ckplus, fer2013, ferplus, rafdb
from poster_edge.errors import UsageError


@dataclass(frozen=True)
class Layout:
    """One published layout.

    Attributes:
        fits: whether a path looks like it, by names alone.
        read: path, options -> faces.
        datasets: label sets that it can be read as.
    """

    fits: Callable[[Path], bool]
    read: Callable[[Path, Request], FaceSet]
    datasets: tuple[str, ...]


@dataclass(frozen=True)
class Request:
    """How a data set is to be read.

    Attributes:
        dataset: name of the label set, or None for what the layout's default is.
        targets: of FERPlus: "majority", "probability" or "multi-label".
    """

    dataset: str | None
    targets: str = "majority"


#: Tried in this order.
LAYOUTS: tuple[Layout, ...] = (
    Layout(rafdb.fits, lambda p, _: rafdb.read(p), ("rafdb",)),
    Layout(ferplus.fits, lambda p, r: ferplus.read(p, r.dataset or "ferplus", r.targets), ("ferplus", "ferplus7")),
    Layout(fer2013.fits, lambda p, _: fer2013.read(p), ("fer2013",)),
    Layout(affectnet.fits, lambda p, r: affectnet.read(p, r.dataset), ("affectnet8", "affectnet7")),
    Layout(ckplus.fits, lambda p, _: ckplus.read(p), ("ckplus",)),
)


def has_layout(path: Path) -> bool:
    """Whether a path looks like a data set in its published layout, by names alone."""
    return any(layout.fits(path) for layout in LAYOUTS)


def read_layout(path: Path, *, dataset: str | None = None, targets: str = "majority") -> FaceSet | None:
    """Faces of a data set in its published layout, or None where the path has none of them.

    Args:
        path: its folder or file.
        dataset: label set it must be read as; None: the layout's default.
        targets: see :class:`Request`.

    Raises:
        UsageError: the layout is another data set's.
        InputError: something in it is missing or wrong; says what to do.
    """
    layout = next((x for x in LAYOUTS if x.fits(path)), None)
    if layout is None:
        return None
    if dataset is not None and dataset not in layout.datasets:
        raise UsageError(f"{path} has the layout of {' or '.join(layout.datasets)}, not of {dataset}")
    return layout.read(path, Request(dataset, targets))
