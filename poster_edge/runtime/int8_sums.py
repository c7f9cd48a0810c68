"""Whether a CPU's integer kernels add up an INT8 model's products exactly.

x86 without VNNI multiplies unsigned with signed 8-bit numbers and adds the products in pairs in 16 bits
(``vpmaddubsw``), which saturate.  Weights of 7 bits keep every pair inside; a graph with such weights says so
in its metadata (:data:`poster_edge.calib.ranges.PAIRS_FIT`).
"""

from __future__ import annotations

import platform
from pathlib import Path

from poster_edge.calib.ranges import PAIRS_FIT
from poster_edge.export.onnx_bytes import metadata
from poster_edge.runtime.bundle import Bundle


def sums_int8_exactly() -> bool:
    """Whether this CPU adds products of INT8 numbers in 32 bits.

    Where an x86 CPU's features cannot be read, it counts as one that does not.
    """
    if platform.machine().lower() not in ("x86_64", "amd64", "i386", "i686", "x86"):
        return True
    return has_flag("vnni")


def has_flag(part: str) -> bool:
    """Whether a name that the kernel lists for this CPU holds ``part``; False where there is no such list."""
    try:
        return part in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


def pairs_fit(data: bytes) -> bool:
    """Whether a model's sums of two products stay in 16 bits; False where the file cannot be read."""
    try:
        return PAIRS_FIT in metadata(data)
    except ValueError:
        return False


def saturates(bundle: Bundle, file: str) -> bool:
    """Whether the integer kernels of this CPU would compute this INT8 model of a bundle wrongly."""
    return not sums_int8_exactly() and not pairs_fit(bundle.read(file))
