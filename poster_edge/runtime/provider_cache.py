"""Engines and timings that onnxruntime's TensorRT providers keep between runs, in this user's cache alone.

The providers read and write a folder of their own accord, and a compiled engine is a program.  So they never get
the cache itself: a private copy is made in which every file has been held against its SHA-256, and what
they leave there is published whole, by a rename.  Anything that does not fit is thrown away and built again.

    <cache>/onnxruntime/<digest of the key>/index.json, and the provider's files
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from poster_edge.errors import UnavailableError
from poster_edge.files import replace_folder, sweep, temporary_name

#: Names the folder of all caches; else ``$XDG_CACHE_HOME/poster-edge``.
VARIABLE = "POSTER_EDGE_CACHE"
_INDEX, _SCHEMA = "index.json", 1
_LIVE = re.compile(r"\.live-(\d+)-[0-9a-f]+")
#: So many models are kept; the least recently published goes first.
_KEPT = 16
_STALE_S = 3600.0


def provider_cache_folder() -> Path:
    """Where these caches lie."""
    if own := os.environ.get(VARIABLE):
        return Path(own).expanduser().absolute() / "onnxruntime"
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification has relative values ignored.
    root = Path(base) if base.startswith("/") else Path("~/.cache").expanduser()
    return root / "poster-edge" / "onnxruntime"


class ProviderCache:
    """A context manager around a session: :attr:`folder` is what the provider may read and write.

    Args:
        key: everything that an engine depends on: model, GPU, driver, versions, options.
        root: of the caches; None: :func:`provider_cache_folder`.
    """

    def __init__(self, key: Mapping[str, str], *, root: Path | None = None) -> None:
        self._key = dict(key)
        self._root = root or provider_cache_folder()
        digest = hashlib.sha256(json.dumps(self._key, sort_keys=True).encode()).hexdigest()
        self._target = self._root / digest[:32]
        self.folder = self._root / f".live-{os.getpid()}-{secrets.token_hex(6)}"
        self._loaded: dict[str, str] = {}

    def __enter__(self) -> ProviderCache:
        try:
            _make_private(self._root)
            _collect(self._root)
            self.folder.mkdir(mode=0o700)
            self._load()
        except OSError as error:
            reason = error.strerror or str(error)
            raise UnavailableError(
                f"{self._root} cannot hold TensorRT's engines: {reason}; set {VARIABLE} to another folder"
            ) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.publish()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    def publish(self) -> bool:
        """Keep what the provider has written, if it has; whether anything was kept.

        A full disk or another process that does the same at the same time costs the next start, nothing more.
        """
        temporary = temporary_name(self._target)
        try:
            now = _hashes(self.folder)
            if not now or now == self._loaded:
                return False
            shutil.copytree(self.folder, temporary)
            temporary.chmod(0o700)
            record = {"schema": _SCHEMA, "key": self._key, "files": _hashes(temporary)}
            (temporary / _INDEX).write_text(json.dumps(record, indent=1, sort_keys=True))
            replace_folder(temporary, self._target)
        except OSError:
            return False
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        self._loaded = now
        _trim(self._root)
        return True

    def _load(self) -> None:
        """Copy what was kept, if it is whole; else remove it."""
        if not os.path.lexists(self._target):
            return
        try:
            _check_private(self._target)
            record = json.loads((self._target / _INDEX).read_bytes())
            files = record["files"] if record["schema"] == _SCHEMA and record["key"] == self._key else {}
            for name, digest in files.items():
                # The bytes that are checked are the bytes that are kept.
                data = _read(self._target / name)
                if not _plain(name) or hashlib.sha256(data).hexdigest() != digest:
                    raise ValueError(name)
                (self.folder / name).write_bytes(data)
            self._loaded = dict(files)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, UnavailableError):
            for path in self.folder.iterdir():
                path.unlink()
            self._loaded = {}
            _discard(self._target)


def _hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every plain file, by name; providers make no folders."""
    return {
        p.name: hashlib.sha256(_read(p)).hexdigest() for p in sorted(folder.iterdir()) if p.is_file() and _plain(p.name)
    }


def _plain(name: str) -> bool:
    return name not in ("", ".", "..", _INDEX) and Path(name).name == name


def _read(path: Path) -> bytes:
    """Content of a file that is no link."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(f"{path} is no file")
        return file.read()


def _make_private(folder: Path) -> None:
    for missing in reversed([p for p in (folder, *folder.parents) if not p.exists()]):
        missing.mkdir(mode=0o700, exist_ok=True)
    _check_private(folder)
    folder.chmod(0o700)


def _check_private(folder: Path) -> None:
    """Refuse a folder that is a link, another user's, or one that others can write to.

    Raises:
        UnavailableError: it is.
    """
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise UnavailableError(
            f"{folder} is a link, another user's, or writable by others; engines are programs: remove it, or set "
            f"{VARIABLE} to another folder"
        )


def _collect(root: Path) -> None:
    """Remove what killed processes left."""
    sweep(root)
    for path in root.glob(".live-*"):
        match = _LIVE.fullmatch(path.name)
        with suppress(OSError):
            if match and time.time() - path.stat().st_mtime >= _STALE_S and not Path(f"/proc/{match[1]}").exists():
                _discard(path)


def _trim(root: Path) -> None:
    with suppress(OSError):
        kept = [p for p in root.iterdir() if not p.name.startswith(".")]
        for old in sorted(kept, key=lambda p: p.stat().st_mtime, reverse=True)[_KEPT:]:
            _discard(old)


def _discard(path: Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)
