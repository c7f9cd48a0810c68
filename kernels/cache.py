"""Names of compiled kernels that are kept between runs: they follow from what the kernels were made of."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path


def hash_sources(paths: Iterable[Path], *words: str) -> str:
    """SHA-256 over files (name and content) and words such as options and versions, 64 digits."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        content = path.read_bytes()
        digest.update(f"{path.name}\0{len(content)}\0".encode() + content)
    for word in words:
        digest.update(f"{word}\0".encode())
    return digest.hexdigest()
