"""Bundles: a model with all that is needed to use it, in one folder, written whole, checked on load."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from poster_edge.errors import PosterEdgeError, UsageError
from poster_edge.files import check_place, replace_folder, sha256, sweep, sync_folder, temporary_name
from poster_edge.runtime.manifest import (
    FILE_NAME,
    MODEL_FILES,
    PLUGIN_FILES,
    Artefact,
    BundleError,
    Manifest,
    read_manifest,
)

MODEL_FILE = "model.onnx"
WEIGHTS_FILE = "model.safetensors"
_ZOO = Path(__file__).resolve().parent.parent / "zoo"


@dataclass(frozen=True)
class Bundle:
    """An opened bundle; its manifest has been checked, its files are checked as they are read.

    Attributes:
        folder: where it lies.
        manifest: what it says about itself.
    """

    folder: Path
    manifest: Manifest

    def read(self, name: str) -> bytes:
        """Content of one file of the bundle, exactly as the manifest promises it.

        Raises:
            BundleError: the file is missing, a link, or not the one that was packed.
        """
        expected = self.manifest.artefacts.get(name)
        if expected is None:
            raise BundleError(f"{self.folder}: has no {name}; it holds {', '.join(self.manifest.artefacts)}")
        path = self.folder / name
        if path.is_symlink() or not path.is_file():
            raise BundleError(f"{path}: missing (or a link); export the bundle again")
        try:
            size = path.stat().st_size
            data = path.read_bytes() if size == expected.bytes else b""
        except OSError as error:
            raise BundleError(f"{path}: {error.strerror}") from error
        if size != expected.bytes:
            raise BundleError(f"{path}: {size} bytes, the manifest says {expected.bytes}; export the bundle again")
        if hashlib.sha256(data).hexdigest() != expected.sha256:
            raise BundleError(f"{path}: its SHA-256 is not the manifest's: damaged or changed; export the bundle again")
        return data

    def model_file(self, precision: str, *, placement: str = "inputs-outputs") -> str:
        """Name of the ONNX file of a precision.

        Args:
            precision: "fp32", "fp16" or "int8".
            placement: which of two INT8 models is wanted; where there is but one, that one is named.

        Raises:
            BundleError: the bundle has none; lists what it has.
        """
        have = {n: a for n, a in self.manifest.artefacts.items() if a.precision}
        fits = sorted((a.placement != placement, n) for n, a in have.items() if a.precision == precision)
        if not fits:
            there = ", ".join(dict.fromkeys(a.precision for a in have.values())) or "none"
            raise BundleError(
                f"{self.folder}: no {precision} model, it has {there}; export one with --precision {precision}"
            )
        return fits[0][1]

    def plugin_file(self, precision: str) -> str:
        """Name of the graph for a TensorRT plugin whose kernels compute in a precision.

        Raises:
            BundleError: the bundle has none; says how to make it.
        """
        name = PLUGIN_FILES[precision]
        if name not in self.manifest.artefacts:
            raise BundleError(
                f"{self.folder}: no graph for a plugin in {precision} ({name}); make it where PyTorch is: "
                f"poster-edge kernels graph {self.folder} --precision {precision}, for a bundle of 'export --fused-op'"
            )
        return name

    def temperature(self, file: str) -> float:
        """What divides the logits of one of its models before the softmax."""
        own = self.manifest.artefacts[file].temperature
        return self.manifest.temperature if own is None else own

    def verify(self) -> None:
        """Check every file against the manifest.

        Raises:
            BundleError: see :meth:`read`.
        """
        for name in self.manifest.artefacts:
            self.read(name)


def zoo_names() -> list[str]:
    """Names of the bundles that come with the package."""
    return sorted(p.parent.name for p in _ZOO.glob(f"*/{FILE_NAME}"))


def load_bundle(name_or_path: str | Path) -> Bundle:
    """Open a bundle by the name of a packaged one or by its folder.

    Raises:
        BundleError: there is none, or its manifest is damaged.
    """
    text = str(name_or_path)
    folder = Path(text)
    if not folder.is_dir() and text in zoo_names():
        folder = _ZOO / text
    if not folder.exists():
        raise BundleError(
            f"no model '{text}': neither a folder nor one of the packaged models ({', '.join(zoo_names())})"
        )
    if not folder.is_dir():
        raise BundleError(f"{folder} is a file; --model takes the folder of a bundle (made by 'poster-edge export')")
    return Bundle(folder, read_manifest(folder))


def write_bundle(
    folder: Path,
    manifest: Manifest,
    files: Mapping[str, Path],
    *,
    temperatures: Mapping[str, float] | None = None,
    force: bool = False,
) -> Bundle:
    """Write a bundle whole: into a temporary folder beside the target, then renamed.

    Args:
        folder: target; must not exist, unless ``force`` and it is a bundle.
        manifest: without artefacts; they are filled in here.
        files: file name in the bundle -> file to copy.
        temperatures: of models that have their own, by file name.
        force: replace an existing bundle.

    Raises:
        UsageError: the target exists.
        PosterEdgeError: it cannot be written.
    """
    check_target(folder, force=force)
    temporary = temporary_name(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        sweep(folder.parent)
        temporary.mkdir()
        own = temperatures or {}
        artefacts = {name: _copy(source, temporary / name, own.get(name)) for name, source in files.items()}
        complete = replace(manifest, artefacts=artefacts)
        _write(temporary / FILE_NAME, complete.to_json().encode())
        sync_folder(temporary)
        replace_folder(temporary, folder)
    except OSError as error:
        raise PosterEdgeError(f"cannot write {folder}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Bundle(folder, complete)


def check_target(folder: Path, *, force: bool) -> None:
    """Refuse a target that holds something, before any long work.

    Raises:
        UsageError: it exists and is not to be (or cannot safely be) replaced.
        PosterEdgeError: nothing can be written there.
    """
    if not folder.name:
        raise UsageError(f"-o {folder}: expected the name of a new folder")
    check_place(folder)
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not (folder / FILE_NAME).is_file():
        raise UsageError(f"{folder} exists and is no bundle; choose another -o")
    if not force:
        raise UsageError(f"{folder} exists; pass --force to replace it, or choose another -o")


def _copy(source: Path, target: Path, temperature: float | None) -> Artefact:
    target.parent.mkdir(exist_ok=True)
    shutil.copyfile(source, target)
    with target.open("rb+") as file:
        os.fsync(file.fileno())
    sync_folder(target.parent)
    precision, placement = MODEL_FILES.get(target.name, ("", ""))
    return Artefact(sha256(target), target.stat().st_size, precision, placement, temperature)


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
