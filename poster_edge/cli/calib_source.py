"""What ``--calib DATA`` names: labelled face crops, or photos and videos to find the faces in.

- A ``.npz``, a data set in its published layout, or a folder most of whose folders bear names of classes, itself or
  in ``train``: the images are face crops, of which those for training are taken.
- Any other folder, folders within it included, one image or one video: faces are found and cropped by
  the very code of ``run``.  So are images in folders with other names (2024/, holiday/): to feed whole
  photos as if they were crops would spoil the ranges without a word.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from poster_edge.calib.batches import CalibrationSet, from_faces, sample_rows
from poster_edge.cli import console
from poster_edge.config import Preprocess
from poster_edge.data.faces import IMAGE_SUFFIXES, load_faces
from poster_edge.data.layouts import has_layout
from poster_edge.data.preprocess import resize_square
from poster_edge.errors import InputError, UsageError
from poster_edge.files import check_exists
from poster_edge.labels import LABEL_SETS, canonical
from poster_edge.pipeline.filelist import FileList
from poster_edge.pipeline.frame import Frame
from poster_edge.pipeline.quiet import natives_silenced
from poster_edge.pipeline.sources import VIDEO_SUFFIXES, is_video
from poster_edge.pipeline.stages import Pipeline
from poster_edge.pipeline.video import count_frames, video_frames
from poster_edge.vision.detect import choose_detector
from poster_edge.vision.faces import Image

Notify = Callable[[str], None]

#: With fewer images a single odd one moves the ranges.
FEWEST = 32
#: Passes over a video, each looking at twice as many frames, while faces are missing.
_PASSES = 4
#: Names of a list that a message shows.
_SHOWN = 5


def open_calibration(
    path: Path,
    preprocess: Preprocess,
    *,
    count: int,
    seed: int,
    detector: str = "auto",
    classes: Sequence[str] = (),
    notify: Notify,
) -> CalibrationSet:
    """Open what ``--calib`` names.

    Args:
        path: a ``.npz`` or another data set, a folder, an image or a video; see the module.
        preprocess: the model's settings, which frame the faces that are found.
        count: images wanted; there may be fewer.
        seed: of the draw.
        detector: as of ``run``; for photos and videos.
        classes: the model's class names; folders may bear these besides the usual ones.
        notify: told in one line of each file that cannot be read and of whatever makes the set a poor one.

    Raises:
        InputError: nothing is there, nothing of it can be read, or no face is found.
        UsageError: ``count`` is below 1, or the detector is unknown.
        UnavailableError: the detector asked for cannot be had here.
    """
    if count < 1:
        raise UsageError(f"calibration needs at least 1 image; {count} were asked for")
    check_exists(path)
    with natives_silenced():
        if holds_faces(path, classes):
            found = from_faces(load_faces(path), count, seed, notify=notify)
        else:
            found = _find_faces(path, preprocess, count, seed, detector, classes, notify)
    _warn(found, path, count, notify)
    return found


def _warn(found: CalibrationSet, path: Path, count: int, notify: Notify) -> None:
    if found.count < count:
        notify(f"{path}: only {found.count} images to calibrate on were found; {count} were asked for")
    if found.count < FEWEST:
        notify(f"ranges from fewer than {FEWEST} images are unreliable; there are {found.count}")
    if found.labels is not None and len(seen := np.unique(found.labels)) == 1:
        notify(f"{path}: all images to calibrate on are '{found.classes[seen[0]]}'; other faces may be out of range")


def holds_faces(path: Path, classes: Sequence[str]) -> bool:
    """Whether the images are labelled face crops."""
    if path.suffix.lower() == ".npz" or has_layout(path):
        return True
    return any(_names_classes(folder, classes) for folder in (path, path / "train"))


def _names_classes(folder: Path, classes: Sequence[str]) -> bool:
    """Whether most folders within a folder bear names of classes."""
    known = {name for labels in LABEL_SETS.values() for name in labels.classes} | set(map(canonical, classes))
    named = [canonical(p.name) in known for p in _folders(folder)]
    return 2 * sum(named) > len(named)


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    try:
        return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror}") from error


def _find_faces(
    path: Path, preprocess: Preprocess, count: int, seed: int, detector: str, classes: Sequence[str], notify: Notify
) -> CalibrationSet:
    files = _images(path, classes, notify) if path.is_dir() else [path]
    finder = choose_detector(detector, notify=notify)
    kept = CropSample(preprocess, count, seed)
    pipeline = Pipeline(finder, kept)
    video = not path.is_dir() and is_video(path)
    frames = _video_frames(path, kept, notify) if video else _image_frames(path, files, kept, seed, notify)
    looked = 0
    with console.progress_bar() as bar, closing(frames):  # type: ignore[type-var]
        task = bar.add_task("faces", total=count)
        for frame in frames:
            pipeline.process(frame)
            looked += 1
            bar.update(task, completed=len(kept.crops))
    if not kept.crops:
        raise InputError(
            f"{path}: {looked} {'frames' if video else 'images'}, no face found by {finder.name}; give pictures with "
            "faces, or face crops in folders named by class (angry/, happy/, …)"
        )
    crops = kept.shuffled()
    name = f"{path.resolve().name}, faces found by {finder.name}"
    return CalibrationSet(name, len(crops), crops.__getitem__, None, ())


class CropSample:
    """Stands where ``run`` has its classifier, so that it is handed exactly what a network would be.

    Keeps up to ``count`` crops at the network's size, each one seen as likely as any other.
    Source: Vitter, "Random Sampling with a Reservoir" (1985), algorithm R.

    Attributes:
        preprocess: how :class:`~poster_edge.pipeline.stages.Pipeline` is to frame the faces.
        crops: those kept, (S, S, 3) BGR.
        wanted: how many are kept at most.
        full: whether so many have been seen.
    """

    def __init__(self, preprocess: Preprocess, count: int, seed: int) -> None:
        self.classes: tuple[str, ...] = ("face",)
        self.preprocess = preprocess
        self.last_ms: dict[str, float] = {}
        self.runtime = ""
        self.crops: list[Image] = []
        self.wanted = count
        self._seen = 0
        self._rng = np.random.default_rng(seed)

    @property
    def full(self) -> bool:
        return self._seen >= self.wanted

    def __call__(self, crops: Sequence[Image]) -> NDArray[np.float64]:
        """Take the crops of one frame; all are named "face"."""
        for crop in crops:
            place = int(self._rng.integers(self._seen + 1)) if self.full else self._seen
            self._seen += 1
            if place < self.wanted:
                # What to_input does first, so it changes nothing there; a copy, for a crop is a view of its frame.
                small = resize_square(crop, self.preprocess.size, self.preprocess.interpolation).copy()
                self.crops[place : place + 1] = [small]
        return np.ones((len(crops), 1))

    def shuffled(self) -> list[Image]:
        """The crops in random order, so that any beginning stands for the whole."""
        return [self.crops[i] for i in self._rng.permutation(len(self.crops))]


def _image_frames(path: Path, files: list[Path], kept: CropSample, seed: int, notify: Notify) -> Iterator[Frame]:
    """Images in random order until there are faces enough."""
    problems: list[str] = []

    def skip(text: str) -> None:
        problems.append(text)
        if path.is_dir():
            notify(f"{text}; passed over")

    order = sample_rows(None, len(files), len(files), seed)
    for frame in FileList([files[i] for i in order], report=skip):
        yield frame
        if kept.full:
            return
    if len(problems) == len(files):
        raise InputError(f"{path}: none of its {len(files)} images can be read" if path.is_dir() else problems[0])


def _video_frames(path: Path, kept: CropSample, notify: Notify) -> Iterator[Frame]:
    """Frames spread evenly over a video: about as many as faces are wanted, then those between."""
    total = _frame_total(path)
    stride, looked = max(1, total // kept.wanted), set[int]()
    for number in range(_PASSES):
        report = _ignore if number else notify
        for frame in video_frames(path, report=report, stride=stride):
            if frame.index not in looked:
                looked.add(frame.index)
                yield frame
        if kept.full or stride == 1:
            return
        stride //= 2


def _frame_total(path: Path) -> int:
    try:
        return count_frames(path) or sum(1 for _ in video_frames(path, report=_ignore))
    except InputError:
        if path.suffix.lower() in VIDEO_SUFFIXES:
            raise
        raise InputError(f"{path}: expected a .npz, a folder, an image or a video") from None


def _ignore(text: str) -> None:
    """For what has been said in an earlier pass."""


def _images(folder: Path, classes: Sequence[str], notify: Notify) -> list[Path]:
    """All images in a folder and the folders within it, sorted.

    Raises:
        InputError: there is none, or the folder holds several data sets.
    """
    sets = [p for p in _folders(folder) if _names_classes(p, classes)]
    if sets:
        raise InputError(
            f"{folder} holds folders of class folders: give one of them ({_list(sets)}), not the one that "
            "judges the result"
        )
    files = sorted(p for p in folder.rglob("*") if p.is_file() and not _is_hidden(p.relative_to(folder)))
    images = [p for p in files if p.suffix.lower() in IMAGE_SUFFIXES]
    videos = sum(p.suffix.lower() in VIDEO_SUFFIXES for p in files)
    if not images:
        what = f"none of its {len(files)} files is an image (.jpg .png .bmp .webp)" if files else "the folder is empty"
        raise InputError(f"{folder}: {what}{'; a video is to be given by its own path' if videos else ''}")
    if videos:
        notify(f"{folder}: videos in it are left out ({videos}); a video is to be given by its own path")
    parents = sorted({p.parent for p in images} - {folder})
    if parents:
        notify(f"{folder}: its folders ({_list(parents)}) are not named by class: taken for photos, not face crops")
    return images


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _list(paths: Sequence[Path]) -> str:
    return ", ".join([p.name for p in paths[:_SHOWN]] + ["…"] * (len(paths) > _SHOWN))
