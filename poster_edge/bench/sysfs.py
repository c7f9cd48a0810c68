"""Small files of /sys and /proc, read below a root that tests can put elsewhere; what is missing is None."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")


def text(path: Path) -> str | None:
    """Content of a file without the blanks and zero bytes around it, or None where it cannot be read."""
    try:
        return path.read_bytes().decode(errors="replace").strip("\0 \t\r\n")
    except OSError:
        # Sensors that sleep answer with an I/O error; that is no reason to end a measurement.
        return None


def number(path: Path) -> float | None:
    """The number that a file holds, or None."""
    value = text(path)
    try:
        return None if value is None else float(value)
    except ValueError:
        return None


def listed(folder: Path, pattern: str) -> Iterator[Path]:
    """Entries of a folder that match a glob, in the order of the numbers in their names."""
    yield from sorted(folder.glob(pattern), key=lambda p: [int(n) for n in re.findall(r"\d+", p.name)])
