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
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from poster_edge.errors import UnavailableError
from poster_edge.files import CACHE_VARIABLE, replace_folder, sweep, temporary_name, user_cache
from poster_edge.runtime.private_folder import UntrustedFileError, open_private, read_private

_REMEDY = f"set {CACHE_VARIABLE} to a folder of your own"
_INDEX, _SCHEMA = "index.json", 1
_LIVE = re.compile(r"\.live-(\d+)-[0-9a-f]+")
#: So many models are kept; the least recently published goes first.
_KEPT = 16
_STALE_S = 3600.0


def provider_cache_folder() -> Path:
    """Where these caches lie: beside the engines of :mod:`poster_edge.runtime.engine_cache`."""
    return user_cache() / "onnxruntime"


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
        open_private(self._root, remedy=_REMEDY)
        _collect(self._root)
        try:
            self.folder.mkdir(mode=0o700)
            self._load()
        except OSError as error:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise UnavailableError(f"{self._root} cannot be used: {error.strerror or error}; {_REMEDY}") from error
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
            for path in self.folder.iterdir():
                # Made with the user's umask, in a folder that nobody else can enter.
                if not path.is_symlink():
                    path.chmod(0o600)
            now = _hashes(self.folder)
            if not now or now == self._loaded:
                return False
            shutil.copytree(self.folder, temporary)
            temporary.chmod(0o700)
            record = {"schema": _SCHEMA, "key": self._key, "files": _hashes(temporary)}
            (temporary / _INDEX).write_text(json.dumps(record, indent=1, sort_keys=True))
            (temporary / _INDEX).chmod(0o600)
            replace_folder(temporary, self._target)
        except (OSError, UntrustedFileError):
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
            open_private(self._target, remedy=_REMEDY)
            record = json.loads(read_private(self._target / _INDEX))
            files = record["files"] if record["schema"] == _SCHEMA and record["key"] == self._key else {}
            for name, digest in files.items():
                # The bytes that are checked are the bytes that are kept.
                data = read_private(self._target / name) if _plain(name) else b""
                if not _plain(name) or hashlib.sha256(data).hexdigest() != digest:
                    raise ValueError(name)
                (self.folder / name).write_bytes(data)
            self._loaded = dict(files)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, UnavailableError, UntrustedFileError):
            for path in self.folder.iterdir():
                path.unlink()
            self._loaded = {}
            _discard(self._target)


def _hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every plain file, by name; providers make no folders."""
    plain = (p for p in sorted(folder.iterdir()) if p.is_file() and _plain(p.name))
    return {p.name: hashlib.sha256(read_private(p)).hexdigest() for p in plain}


def _plain(name: str) -> bool:
    return name not in ("", ".", "..", _INDEX) and Path(name).name == name


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
