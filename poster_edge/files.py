"""Files written whole or not at all, their hashes, and where the user's caches lie.

A writer killed at any moment leaves the old file intact and at most one temporary file, which the
next writer in that folder collects (see :func:`sweep`).
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from poster_edge.errors import InputError, PosterEdgeError

#: Names another folder for what is kept between runs than ``$XDG_CACHE_HOME/poster-edge``.
CACHE_VARIABLE = "POSTER_EDGE_CACHE"

_MARK = ".poster-edge-tmp-"
_STALE_S = 3600.0
_SCRATCH_STALE_S = 24 * 3600.0


def check_exists(path: Path) -> None:
    """Refuse a path that leads nowhere, before any long work.

    Raises:
        InputError: there is no file and no folder.
    """
    if not path.is_dir() and not path.is_file():
        raise InputError(f"{path}: {'neither a file nor a folder' if path.exists() else 'no such file or folder'}")


def sha256(path: Path) -> str:
    """SHA-256 of a file as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def temporary_name(path: Path) -> Path:
    """A fresh name beside ``path``, recognised by :func:`sweep`."""
    return path.with_name(f"{_MARK}{secrets.token_hex(6)}-{path.name}")


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, where the system allows it."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def check_writable(*paths: Path) -> None:
    """Refuse files that could not be written, before any long work.

    Raises:
        PosterEdgeError: one is a folder, or its folder can be neither made nor written.
    """
    for path in paths:
        check_place(path)
        if path.is_dir():
            raise PosterEdgeError(f"cannot write {path}: it is a folder")


def check_place(path: Path) -> None:
    """Refuse a file or a folder whose parent can be neither made nor written, before any long work.

    Raises:
        PosterEdgeError: says why.
    """
    try:
        path.exists()
        nearest = next(p for p in path.absolute().parents if p.exists())
    except OSError as error:
        raise PosterEdgeError(f"cannot write {path}: {error.strerror or error}") from error
    if not nearest.is_dir():
        raise PosterEdgeError(f"cannot write {path}: {nearest} is no folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise PosterEdgeError(f"cannot write {path}: no permission to write in {nearest}")


def _is_special(path: Path) -> bool:
    """Whether a device or a pipe is there, which a renamed file would take away."""
    return path.exists() and not path.is_file() and not path.is_dir()


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; on success it becomes ``path``, else it is removed.

    Raises:
        PosterEdgeError: the folder cannot be written, the disk is full, or a device or a pipe is there.
    """
    if _is_special(path):
        raise PosterEdgeError(f"cannot write {path}: a device or a pipe; expected a file's name")
    temporary = temporary_name(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise PosterEdgeError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write a whole file atomically, or into a device or a pipe as it is; text is encoded as UTF-8."""
    content = data.encode() if isinstance(data, str) else data
    if _is_special(path):
        try:
            path.write_bytes(content)
        except OSError as error:
            raise PosterEdgeError(f"cannot write {path}: {error.strerror or error}") from error
        return
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def replace_folder(new: Path, target: Path) -> None:
    """Rename a finished folder to ``target``, which must lie beside it; what is there goes, or stays on an error.

    On Linux an old folder is swapped for the new one in a single step, so that there is one at every moment.

    Raises:
        OSError: a folder cannot be renamed; the old one is back in its place.
    """
    if target.exists() and _swap(new, target):
        sync_folder(target.parent)
        shutil.rmtree(new, ignore_errors=True)
        return
    old = temporary_name(target)
    if target.exists():
        target.rename(old)
    try:
        new.rename(target)
    except OSError:
        with suppress(OSError):
            old.rename(target)
        raise
    sync_folder(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def _swap(first: Path, second: Path) -> bool:
    """Exchange two paths in a single step; False where the system or the file system cannot."""
    import ctypes

    swap = getattr(ctypes.CDLL(None), "renameat2", None) if sys.platform.startswith("linux") else None
    if swap is None:
        return False
    # Paths count from the working folder (-100), 2 asks for the exchange.
    return bool(swap(-100, os.fsencode(first), -100, os.fsencode(second), 2) == 0)


def sweep(folder: Path, *, older_than_s: float = _STALE_S) -> list[Path]:
    """Remove temporaries that a killed writer left in ``folder``; returns what was removed."""
    removed = []
    now = time.time()
    for path in folder.glob(f"{_MARK}*"):
        with suppress(OSError):
            if now - path.lstat().st_mtime >= older_than_s:
                _remove(path)
                removed.append(path)
    return removed


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder for temporary files, gone afterwards; what a process that was killed left a day ago goes first."""
    sweep(Path(tempfile.gettempdir()), older_than_s=_SCRATCH_STALE_S)
    with tempfile.TemporaryDirectory(prefix=_MARK) as folder:
        yield Path(folder)


def _remove(path: Path) -> None:
    # Not through links: anybody may put one into /tmp.
    if path.is_dir() and not path.is_symlink():
        for child in path.iterdir():
            _remove(child)
        path.rmdir()
    else:
        path.unlink()


def user_cache() -> Path:
    """``$POSTER_EDGE_CACHE``, else ``$XDG_CACHE_HOME/poster-edge``; not created here."""
    if own := os.environ.get(CACHE_VARIABLE):
        return Path(own).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification has relative values ignored.
    root = Path(base) if base.startswith("/") else Path("~/.cache").expanduser()
    return root / "poster-edge"
