"""Labelled faces: published layouts, FER2013 packed in a ``.npz``, plain arrays, class folders.

Every reader checks what it reads and says what is wrong, with the path.  Nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from poster_edge.data.preprocess import resize_square, to_channels
from poster_edge.errors import InputError, UsageError
from poster_edge.labels import LABEL_SETS, canonical, label_set

#: Images that ``run`` takes too.
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".png", ".bmp", ".webp"})
#: Images of data sets: JAFFE's are TIFF files.
FACE_SUFFIXES = IMAGE_SUFFIXES | {".tif", ".tiff"}

#: Images of a set that are looked at to find out whether it is gray.
_LOOKED_AT = 16

#: Split names found in files -> the role they play here.
SPLIT_ROLES = {"Training": "train", "PublicTest": "validation", "train": "train", "validation": "validation"}

#: Folders of splits, as data sets in class folders are handed around.
_PARTS = {"train": "train", "validation": "validation", "valid": "validation", "val": "validation", "test": "test"}


@dataclass(frozen=True)
class FaceSet:
    """N labelled face images, decoded one by one on demand.

    Attributes:
        name: where they came from, for messages and records.
        classes: class names; a label indexes them.
        labels: (N,) int64.
        read: index -> image, uint8 (h, w) gray or (h, w, 3) BGR.
        roles: (N,) "train", "validation", "test" or "" where the file tells no split.
        soft: (N, C) target distributions, where the data set has more than one opinion of a face.
        groups: (N,) of whom the image is, where the data set tells; folds must not share a group.
        left_out: images of the data set that have no usable label.
        known_as: name of the data set, where its layout told.
        names: N names of the image files, where the images have files or are known by names.
    """

    name: str
    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    read: Callable[[int], NDArray[np.uint8]]
    roles: NDArray[np.str_]
    soft: NDArray[np.float32] | None = None
    groups: NDArray[np.str_] | None = None
    left_out: int = 0
    known_as: str = ""
    names: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def indices(self, role: str) -> NDArray[np.int64]:
        """Row numbers of one split."""
        return np.flatnonzero(self.roles == role)

    @property
    def dataset(self) -> str:
        """Name of the known data set whose conventions it follows, or "custom"."""
        if self.known_as:
            return self.known_as
        fits = (
            s.name for s in LABEL_SETS.values() if s.classes == self.classes and (s.colour == "gray") == self.is_gray
        )
        return next(fits, "custom")

    @cached_property
    def is_gray(self) -> bool:
        """Whether images are stored in one channel, as all of FER2013 are; a few from the whole set are looked at.

        Sets of colour images have gray ones among them, which must not decide, wherever they stand.

        Raises:
            InputError: none of those can be read.
        """
        rows = np.unique(np.linspace(0, len(self) - 1, _LOOKED_AT).astype(int)).tolist()
        found = [image.ndim for row in rows if (image := self._readable(row)) is not None]
        if not found:
            self.read(rows[0])
        return all(dimensions == 2 for dimensions in found)

    def _readable(self, row: int) -> NDArray[np.uint8] | None:
        try:
            return self.read(row)
        except InputError:
            return None

    def squares(self, indices: Sequence[int] | NDArray[np.int64], size: int, colour: str) -> NDArray[np.uint8]:
        """Decode many images at once as squares: (n, 1, size, size) for "gray", else (n, 3, size, size)."""
        channels = 1 if colour == "gray" else 3
        out = np.empty((len(indices), channels, size, size), np.uint8)
        for row, index in enumerate(indices):
            image = resize_square(self.read(int(index)), size, "linear")
            # H x W x 3 -> channels x H x W
            out[row] = to_channels(image, colour)[:, :, :channels].transpose(2, 0, 1)
        return out

    def pixel_hashes(self, indices: NDArray[np.int64]) -> list[str]:
        """A hash of each image's decoded pixels; equal images have equal hashes."""
        images = (self.read(int(i)) for i in indices)
        return [hashlib.sha1(str(im.shape).encode() + np.ascontiguousarray(im).tobytes()).hexdigest() for im in images]


def load_faces(path: Path, *, dataset: str | None = None, targets: str = "majority") -> FaceSet:
    """Open a data set, whatever its layout.

    Args:
        path: a data set in its published layout (:mod:`poster_edge.data.layouts`), a ``.npz`` (FER2013 packed
            as JPEG, or ``images`` and ``labels``), or a folder with one folder per class.
        dataset: what it must be, such as "affectnet7"; None: what it looks like.
        targets: of FERPlus: "majority", "probability" or "multi-label".

    Raises:
        UsageError: it is another data set, or it has no votes to make ``targets`` of.
        InputError: the path is missing, of no known layout, or inconsistent.
    """
    # The readers of layouts make face sets, so they import this module.
    from poster_edge.data.layouts import read_layout

    if not path.exists():
        raise InputError(f"no such data set: {path}")
    faces = read_layout(path, dataset=dataset, targets=targets)
    if targets != "majority" and (faces is None or not faces.known_as.startswith("ferplus")):
        raise UsageError(f"targets '{targets}' come from votes, which FERPlus has and {path} has not")
    if faces is None:
        faces = _from_folders(path) if path.is_dir() else _from_npz(path)
        if dataset is not None:
            faces = _as_dataset(faces, dataset)
    return faces


def _as_dataset(faces: FaceSet, dataset: str) -> FaceSet:
    """The same faces in a data set's label order."""
    classes = label_set(dataset).classes
    if unknown := [c for c in faces.classes if c not in classes]:
        raise InputError(f"{faces.name}: {dataset} has no class {', '.join(unknown)}; it has {', '.join(classes)}")
    position = np.array([classes.index(c) for c in faces.classes], np.int64)
    return replace(faces, classes=classes, labels=position[faces.labels])


def read_npz(path: Path) -> dict[str, NDArray]:
    """All arrays of a ``.npz`` file; nothing is unpickled.

    Raises:
        InputError: it is none, or a damaged one.
    """
    try:
        found = np.load(path, allow_pickle=False)
        if isinstance(found, np.ndarray):
            raise ValueError("one array of a .npy file")
        with found as arrays:
            return {key: arrays[key] for key in arrays.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error, KeyError, NotImplementedError) as error:
        raise InputError(f"{path}: not a readable .npz file ({error})") from error


def _from_npz(path: Path) -> FaceSet:
    if path.suffix != ".npz":
        raise InputError(
            f"{path}: expected a .npz file, a folder with one folder per class, or a data set as it is published"
        )
    entries = read_npz(path)
    if "jpeg" in entries:
        return _from_packed(path, entries)
    if "images" in entries:
        return _from_arrays(path, entries)
    raise InputError(f"{path}: needs 'images' and 'labels', or 'jpeg', 'offsets' and 'labels'; has {sorted(entries)}")


def decode(data: bytes | NDArray[np.uint8], source: str) -> NDArray[np.uint8]:
    """Decode an image file's bytes, as BGR or gray as stored.

    Raises:
        InputError: the bytes are no image; names ``source``.
    """
    buffer = np.frombuffer(data, np.uint8) if isinstance(data, bytes) else data
    image = cv2.imdecode(buffer, cv2.IMREAD_ANYCOLOR) if buffer.size else None
    if image is None:
        raise InputError(f"{source}: not a readable image")
    return np.asarray(image, np.uint8)


def _need(path: Path, entries: dict[str, NDArray], *names: str) -> None:
    missing = [n for n in names if n not in entries]
    if missing:
        raise InputError(f"{path}: entries missing: {', '.join(missing)}")


def _classes(path: Path, entries: dict[str, NDArray], labels: NDArray[np.int64]) -> tuple[str, ...]:
    if "classes" in entries:
        classes = tuple(canonical(str(c)) for c in entries["classes"])
    elif len(labels) and labels.max() < 7:
        # Without names the only convention with a fixed meaning for bare numbers is FER2013's csv
        # order; it is the alphabetical one here.
        classes = LABEL_SETS["fer2013"].classes
    else:
        raise InputError(f"{path}: no 'classes' entry, so labels up to {labels.max(initial=0)} have no names")
    if len(set(classes)) != len(classes):
        raise InputError(f"{path}: 'classes' names a class twice: {', '.join(map(str, entries['classes']))}")
    bad = np.flatnonzero((labels < 0) | (labels >= len(classes)))
    if len(bad):
        raise InputError(f"{path}: label {labels[bad[0]]} of row {bad[0]} is outside 0..{len(classes) - 1}")
    return classes


def _labels(path: Path, entries: dict[str, NDArray]) -> NDArray[np.int64]:
    labels = entries["labels"]
    if labels.dtype.kind not in "iu" or labels.ndim != 1:
        raise InputError(f"{path}: 'labels' must be whole numbers (N,), got {labels.dtype} {labels.shape}")
    return labels.astype(np.int64)


def _roles(path: Path, entries: dict[str, NDArray], count: int) -> NDArray[np.str_]:
    if "split" not in entries:
        return np.full(count, "", dtype="U10")
    _need(path, entries, "split_names")
    split, names = entries["split"], entries["split_names"]
    if split.shape != (count,) or split.dtype.kind not in "iu" or not ((split >= 0) & (split < len(names))).all():
        raise InputError(f"{path}: 'split' does not fit {count} rows and {len(names)} names")
    return np.array([SPLIT_ROLES.get(str(n), str(n)) for n in names])[split]


def _from_packed(path: Path, entries: dict[str, NDArray]) -> FaceSet:
    _need(path, entries, "offsets", "labels")
    jpeg, offsets, labels = entries["jpeg"], entries["offsets"], _labels(path, entries)
    fits = offsets.shape == (len(labels) + 1,) and offsets.dtype.kind in "iu" and jpeg.dtype == np.uint8
    if not fits or offsets[0] < 0 or (offsets[1:] < offsets[:-1]).any() or offsets[-1] > len(jpeg):
        raise InputError(f"{path}: 'offsets' does not fit {len(labels)} labels and {len(jpeg)} bytes")

    def read(index: int) -> NDArray[np.uint8]:
        return decode(jpeg[offsets[index] : offsets[index + 1]], f"{path}, row {index}")

    return FaceSet(path.name, _classes(path, entries, labels), labels, read, _roles(path, entries, len(labels)))


def _from_arrays(path: Path, entries: dict[str, NDArray]) -> FaceSet:
    _need(path, entries, "labels")
    images, labels = entries["images"], _labels(path, entries)
    fits = images.dtype == np.uint8 and (images.ndim == 3 or (images.ndim == 4 and images.shape[3] == 3))
    if not fits or len(images) != len(labels):
        raise InputError(
            f"{path}: 'images' must be uint8 (N, h, w) or (N, h, w, 3) BGR with N labels; "
            f"got {images.dtype} {images.shape} and labels {labels.shape}"
        )
    return FaceSet(
        path.name, _classes(path, entries, labels), labels, lambda i: images[i], _roles(path, entries, len(labels))
    )


def _from_folders(path: Path) -> FaceSet:
    parts = {n: r for n, r in _PARTS.items() if (path / n).is_dir()}
    if len(set(parts.values())) < len(parts):
        same = [n for n, r in parts.items() if list(parts.values()).count(r) > 1]
        raise InputError(f"{path}: {' and '.join(same)} are the same split twice; keep one of them")
    if "train" in parts.values():
        return _joined(path, {r: _class_folders(path / n) for n, r in parts.items()})
    return _class_folders(path)


def _joined(path: Path, parts: dict[str, FaceSet]) -> FaceSet:
    """The splits of one data set in folders of their own; every split has the classes of all."""
    classes = tuple(sorted({c for p in parts.values() for c in p.classes}))
    if missing := [c for c in classes if c not in parts["train"].classes]:
        raise InputError(f"{path / 'train'} has no folder of {', '.join(missing)}, which another split of it has")
    sets = list(parts.values())
    starts = np.cumsum([0, *(len(s) for s in sets)])

    def read(index: int) -> NDArray[np.uint8]:
        part = int(np.searchsorted(starts, index, side="right")) - 1
        return sets[part].read(index - int(starts[part]))

    labels = [np.array([classes.index(c) for c in s.classes], np.int64)[s.labels] for s in sets]
    roles = [np.full(len(s), role, dtype="U10") for role, s in parts.items()]
    names = tuple(name for s in sets for name in s.names or ())
    return FaceSet(path.name, classes, np.concatenate(labels), read, np.concatenate(roles), names=names)


def _class_folders(path: Path) -> FaceSet:
    folders = sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
    files = [(f, k) for k, d in enumerate(folders) for f in sorted(d.iterdir()) if f.suffix.lower() in FACE_SUFFIXES]
    if not files:
        raise InputError(f"{path}: found no images in class folders (expected {path}/CLASS/*.jpg)")
    if empty := [d for k, d in enumerate(folders) if k not in {label for _, label in files}]:
        raise InputError(f"{empty[0]} has no image in it, so nothing shows what that class is; fill it or remove it")
    classes = tuple(canonical(d.name) for d in folders)
    if len(set(classes)) != len(classes):
        raise InputError(f"{path}: two folders name the same class: {', '.join(d.name for d in folders)}")

    def read(index: int) -> NDArray[np.uint8]:
        file = files[index][0]
        try:
            return decode(file.read_bytes(), str(file))
        except OSError as error:
            raise InputError(f"{file}: {error.strerror}") from error

    labels = np.array([k for _, k in files], np.int64)
    names = tuple(file.name for file, _ in files)
    return FaceSet(path.name, classes, labels, read, np.full(len(files), "", dtype="U10"), names=names)
