"""A bundle in the making: what ``poster-edge export`` hands from step to step.  No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from poster_edge.calib.cache import FILE_NAME as CALIBRATION_FILE
from poster_edge.calib.cache import Calibration, parse_calibration
from poster_edge.errors import PosterEdgeError, UsageError
from poster_edge.files import write_atomic
from poster_edge.runtime.bundle import MODEL_FILE, WEIGHTS_FILE, Bundle
from poster_edge.runtime.manifest import Manifest

CARD_FILE = "MODEL_CARD.md"


@dataclass(frozen=True)
class Draft:
    """A bundle that is not written yet.

    Attributes:
        manifest: without artefacts.
        files: name in the bundle -> where the file lies now; ``model.onnx`` among them.
        temperatures: of models that have their own, by file name.
    """

    manifest: Manifest
    files: dict[str, Path]
    temperatures: dict[str, float] = field(default_factory=dict)


def reopen(bundle: Bundle, folder: Path) -> tuple[Draft, Calibration | None]:
    """The float32 part of a finished bundle as a draft, and its calibration, both checked against its hashes.

    Raises:
        BundleError: a file is not the one that was packed.
        UsageError: the bundle has no float32 model.
    """
    have = bundle.manifest.artefacts
    if MODEL_FILE not in have:
        raise UsageError(f"{bundle.folder} has no {MODEL_FILE} to start from; it holds {', '.join(have)}")
    files = {}
    for name in (MODEL_FILE, WEIGHTS_FILE, CARD_FILE):
        if name in have:
            files[name] = folder / name
            write_atomic(files[name], bundle.read(name))
    calibration = None
    if CALIBRATION_FILE in have:
        calibration = parse_calibration(bundle.read(CALIBRATION_FILE), str(bundle.folder / CALIBRATION_FILE))
    manifest = replace(bundle.manifest, artefacts={}, precision="fp32", gate=None, calibration=None, engines={})
    return Draft(manifest, files), calibration


def reopen_whole(bundle: Bundle, folder: Path) -> Draft:
    """A finished bundle, all of it, as a draft that something is to be added to.

    Raises:
        BundleError: a file is not the one that was packed.
    """
    have = bundle.manifest.artefacts
    files = {name: folder / name for name in have}
    for name, path in files.items():
        write_atomic(path, bundle.read(name))
    temperatures = {name: a.temperature for name, a in have.items() if a.temperature is not None}
    return Draft(replace(bundle.manifest, artefacts={}), files, temperatures)


def renamed(draft: Draft, name: str | None) -> Draft:
    """The draft of a finished bundle under another name, in manifest and card; as it is where there is none.

    Raises:
        PosterEdgeError: the card cannot be read.
    """
    old = draft.manifest.model
    if name is None or name == old:
        return draft
    if CARD_FILE in draft.files:
        card = _card(draft.files[CARD_FILE])
        card = card.replace(f"\n- name: {old}\n", f"\n- name: {name}\n", 1).replace(f"\n# {old}\n", f"\n# {name}\n", 1)
        write_atomic(draft.files[CARD_FILE], card)
    return replace(draft, manifest=replace(draft.manifest, model=name))


def _card(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PosterEdgeError(f"{path}: {error}") from error


def append_to_card(draft: Draft, section: str) -> None:
    """Add a section to the model card, in place of the one of an earlier export.

    Raises:
        PosterEdgeError: the card cannot be read.
    """
    path = draft.files[CARD_FILE]
    title = section.partition("\n")[0]
    text = _card(path)
    kept, _, _ = text.partition(f"\n{title}\n")
    write_atomic(path, kept.rstrip("\n") + "\n\n" + section)
