"""RAF-DB's basic emotions: the published folder, and the class folders found in practice.

Published: ``EmoLabel/list_patition_label.txt`` (its own spelling; lines "train_00001.jpg 5") beside
``Image/aligned/train_00001_aligned.jpg``.  In practice also ``train/1/…`` and ``test/1/…``, with the
same codes 1 to 7.

Source: Li et al., "Reliable Crowdsourcing and Deep Locality-Preserving Learning for Expression
Recognition in the Wild" (2017).
"""

from __future__ import annotations

from pathlib import Path

from poster_edge.data.faces import FaceSet
from poster_edge.data.layouts.tables import coded_folders, face_set, integer, must_exist, names_in, read_image
from poster_edge.errors import InputError

_LIST = Path("EmoLabel") / "list_patition_label.txt"
_CODES = frozenset("1234567")
_ROLES = {"train": "train", "test": "test"}


def fits(path: Path) -> bool:
    """Whether a folder is RAF-DB's, or holds it as ``basic``."""
    return _root(path) is not None


def _root(path: Path) -> Path | None:
    roots = [r for r in (path, path / "basic", path / "DATASET") if r.is_dir()]
    return next((r for r in roots if (r / "EmoLabel").is_dir() or _coded(r)), None)


def _coded(root: Path) -> bool:
    """Whether ``train`` or ``test`` hold folders of numbers, most of 1 to 7 among them (AffectNet's begin at 0)."""
    names = set().union(*(names_in(root / part) for part in _ROLES))
    others = any((root / part).is_dir() for part in ("val", "valid", "validation"))
    return (
        not others and all(n.isdecimal() for n in names) and "0" not in names and len(names & _CODES) > len(_CODES) // 2
    )


def read(path: Path) -> FaceSet:
    """Faces of RAF-DB; its test images have the role "test".

    Raises:
        InputError: the list or images are missing, or a line is wrong.
    """
    root = _root(path)
    assert root is not None
    listed = _published(root) if (root / "EmoLabel").is_dir() else _folders(root)
    files, labels, roles = [f for f, _, _ in listed], [k for _, k, _ in listed], [r for _, _, r in listed]
    names = [f.name for f in files]
    return face_set(path, "rafdb", labels, roles, lambda i: read_image(files[i]), names=names)


def _published(root: Path) -> list[tuple[Path, int, str]]:
    table = root / _LIST
    try:
        lines = table.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{table}: cannot be read ({error}); it comes with RAF-DB, next to README.txt") from error
    aligned = root / "Image" / "aligned"
    if not aligned.is_dir():
        raise InputError(f"{aligned} is missing; unpack RAF-DB's Image/aligned.zip there")
    found = [_entry(aligned, line, f"{table}, line {n}") for n, line in enumerate(lines, 1) if line.strip()]
    must_exist(root, [f for f, _, _ in found], "unpack Image/aligned.zip again")
    return found


def _entry(aligned: Path, line: str, where: str) -> tuple[Path, int, str]:
    parts = line.split()
    if len(parts) != 2:
        raise InputError(f"{where}: expected 'train_00001.jpg 5', got {line!r}")
    name, code = Path(parts[0]), integer(parts[1], where, 1, 7)
    role = _ROLES.get(name.name.partition("_")[0])
    if role is None or name.name != parts[0]:
        raise InputError(f"{where}: {parts[0]!r} begins neither with train_ nor with test_")
    return aligned / f"{name.stem}_aligned{name.suffix}", code - 1, role


def _folders(root: Path) -> list[tuple[Path, int, str]]:
    for part in _ROLES:
        if not (root / part).is_dir():
            raise InputError(f"{root / part} is missing; RAF-DB comes with train and test, each with folders 1 to 7")
        if odd := sorted(names_in(root / part) - _CODES):
            raise InputError(f"{root / part / odd[0]}: the code {odd[0]} is outside 1..7")
    found = coded_folders(root, list(_ROLES))
    return [
        (file, int(code) - 1, _ROLES[part])
        for part, folders in found.items()
        for code, files in folders.items()
        for file in files
    ]
