"""Where compiled kernels are kept between runs, under names that follow from what they were made of."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

ENVIRONMENT = "POSTER_EDGE_CACHE"


def cache_folder() -> Path:
    """``$POSTER_EDGE_CACHE``, else ``poster-edge`` in the user's cache folder; not created here."""
    named = os.environ.get(ENVIRONMENT)
    if named:
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "poster-edge"


def hash_sources(paths: Iterable[Path], *words: str) -> str:
    """SHA-256 over files (name and content) and words such as options and versions, 64 digits."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        content = path.read_bytes()
        digest.update(f"{path.name}\0{len(content)}\0".encode() + content)
    for word in words:
        digest.update(f"{word}\0".encode())
    return digest.hexdigest()
