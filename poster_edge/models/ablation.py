"""POSTER's ablation variants as configurations, and the tables they make.  No torch here.

A variant is named "BASE@VARIANT", such as "poster-nano@image-only": its configuration is the base's with a few
switches turned.  Source: Zheng et al., "POSTER" (2022), section 4.4, Table 5, Table 6 and Fig. 6; what the paper
leaves open is listed in ``docs/evaluation.md``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from poster_edge.errors import UsageError
from poster_edge.models.poster_config import PosterConfig

SEPARATOR = "@"
TABLES = ("components", "levels", "swap-depth", "depth")
_MOST_LEVELS = 4
_NUMBERED = re.compile(r"(?P<kind>levels|swap|depth)-(?P<count>\d+)")

#: Variant -> what it changes in a base configuration.
_NAMED: dict[str, Callable[[PosterConfig], dict[str, Any]]] = {
    "landmark-only": lambda base: {"streams": "landmark"},
    "image-only": lambda base: {"streams": "image"},
    "image-only-1-level": lambda base: {"streams": "image", "dims": base.dims[:1]},
    "baseline": lambda base: {"fusion": "joint", "dims": base.dims[:1]},
    "baseline-pyramid": lambda base: {"fusion": "joint"},
    "baseline-cross": lambda base: {"dims": base.dims[:1]},
    "q-proj": lambda base: {"q_proj": True},
}

_LABELS = {
    "landmark-only": "landmark only",
    "image-only": "image only",
    "image-only-1-level": "image only, one level",
    "baseline": "baseline: joint self-attention, one level",
    "baseline-pyramid": "baseline + pyramid",
    "baseline-cross": "baseline + cross-fusion",
    "q-proj": "projected queries",
}


def variant_config(base: PosterConfig, variant: str) -> PosterConfig:
    """Configuration of a variant.

    Args:
        base: a network with both streams.
        variant: "image-only", "levels-2", "swap-1", "depth-4" and so on.

    Raises:
        UsageError: no such variant, or the base cannot be changed so or is a variant itself.
    """
    if SEPARATOR in base.variant:
        raise UsageError(f"{base.variant} is a variant itself; give the whole network")
    changes = _numbered(base, variant) if variant not in _NAMED else _NAMED[variant](base)
    return replace(base, variant=f"{base.variant}{SEPARATOR}{variant}", **changes)


def _numbered(base: PosterConfig, variant: str) -> dict[str, Any]:
    match = _NUMBERED.fullmatch(variant)
    if match is None:
        raise UsageError(
            f"no variant '{variant}' of {base.variant}; known: {', '.join(_NAMED)}, levels-1 to levels-{_MOST_LEVELS}, "
            "swap-0 to swap-DEPTH, depth-1 and more"
        )
    kind, count = match["kind"], int(match["count"])
    if kind == "swap":
        return {"swap_first": count}
    if kind == "depth":
        if count < 1:
            raise UsageError(f"'{variant}': a network has at least one depth")
        return {"depth": count}
    if not 1 <= count <= _MOST_LEVELS:
        raise UsageError(f"'{variant}': a pyramid has 1 to {_MOST_LEVELS} levels")
    return {"dims": tuple(base.dims[0] >> level for level in range(count))}


def table_rows(base: PosterConfig, table: str) -> list[tuple[str, PosterConfig]]:
    """Rows of an ablation table: what each is called, and its configuration; the base itself is among them.

    Args:
        base: the whole network.
        table: one of :data:`TABLES`.

    Raises:
        UsageError: unknown table.
    """
    if table not in TABLES:
        raise UsageError(f"unknown table '{table}'; known: {', '.join(TABLES)}")
    if table == "components":
        names = ["landmark-only", "image-only", "baseline", "baseline-pyramid", "baseline-cross"]
        return [*((_LABELS[n], variant_config(base, n)) for n in names), (f"{base.variant} (whole)", base)]
    kind, counts = {
        "levels": ("levels", list(range(1, _MOST_LEVELS + 1))),
        "swap-depth": ("swap", _swaps(base.depth)),
        "depth": ("depth", _depths(base.depth)),
    }[table]
    rows = [(c, _unless_equal(base, variant_config(base, f"{kind}-{c}"))) for c in counts]
    return [(_label(table, count, config), config) for count, config in rows]


def _unless_equal(base: PosterConfig, config: PosterConfig) -> PosterConfig:
    """The base itself where a variant is the same network, so that it is trained once."""
    same = replace(config, variant=base.variant, swap_first=_swapping(config)) == replace(
        base, swap_first=_swapping(base)
    )
    return base if same else config


def _swapping(config: PosterConfig) -> int:
    """Number of depths in which the streams ask each other."""
    return sum(config.swaps(depth) for depth in range(config.depth))


def _label(table: str, count: int, config: PosterConfig) -> str:
    if table == "levels":
        return f"{count} level{'s' if count > 1 else ''}: {'/'.join(map(str, config.dims))}"
    return f"swapped in the first {count}" if table == "swap-depth" else f"depth {count}"


def _swaps(depth: int) -> list[int]:
    """0, the powers of two and all: 0, 1, 2, 4, 8 for the published depth."""
    return sorted({0, depth} | {1 << i for i in range(depth.bit_length()) if 1 << i <= depth})


def _depths(depth: int) -> list[int]:
    """Half, three quarters and the whole (the published 4, 6, 8); of a shallow network one to twice its depth."""
    return [depth // 2, 3 * depth // 4, depth] if depth >= 4 else list(range(1, 2 * depth + 1))
