"""Writes the source of a TensorRT plugin that carries the kernels of ``poster-edge kernels build``.

The plugin plans nothing: which kernel serves which batch, and how many programs it takes, is read off
:func:`poster_edge.kernels.launch.plan` here and written into a table.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from poster_edge.errors import PosterEdgeError, UsageError
from poster_edge.files import sync_folder, temporary_name, write_atomic
from poster_edge.kernels.aot import MANIFEST, Entry
from poster_edge.kernels.aot_loader import find_entry, read_cubin, read_manifest
from poster_edge.kernels.launch import Launch, largest_batch, plan
from poster_edge.kernels.shape import FusionShape

CSRC = Path(__file__).parent / "csrc"
#: Kernel -> name in the table; "mix" has a second form for the last depth.
_NAMES = {
    "enter": "kEnter",
    "attend": "kAttend",
    "project": "kProject",
    "expand": "kExpand",
    "contract": "kContract",
    "mix": "kMix",
}
#: Batches at which the plan is looked at, and the largest; between two that agree it does not change.
_PROBES = {*range(1, 129), *(1 << i for i in range(7, 14))}


@dataclass(frozen=True)
class Row:
    """One row of the table: a kernel, and when it is launched how.

    Attributes:
        entry: the compiled kernel.
        last: of mix: the form for the last depth.
        batches: smallest and largest batch.
        grid_x: programs in x.
        rows: rows of a sample, and 0 where a program in y is a sample.
        tile: rows of a tile, and 0.
    """

    entry: Entry
    last: bool
    batches: tuple[int, int]
    grid_x: int
    rows: int
    tile: int


def table(shape: FusionShape, precision: str, entries: list[Entry]) -> list[Row]:
    """What to launch for every batch on every architecture of a folder.

    Raises:
        UnavailableError: the folder lacks a kernel.
        PosterEdgeError: the plan is beyond what the table can say.
    """
    found = []
    for arch in sorted({e.arch for e in entries}):
        own = [e for e in entries if e.arch == arch]
        for kernel, last in [*((k, False) for k in _NAMES), ("mix", True)]:
            found += list(_rows(kernel, shape, precision, own, last=last))
    return found


def _rows(kernel: str, shape: FusionShape, precision: str, entries: list[Entry], *, last: bool) -> Iterator[Row]:
    """Rows of one kernel on one architecture, by rising batch."""
    capability = divmod(entries[0].arch, 10)
    begun: Row | None = None
    largest = largest_batch(shape)
    for batch in sorted({b for b in _PROBES if b < largest} | {largest}):
        step = plan(kernel, shape, batch, precision, last=last, capability=capability)
        entry = entries[find_entry(entries, step)]
        rows, tile = _tiling(step, shape, batch)
        if begun and (begun.entry, begun.grid_x, begun.rows, begun.tile) == (entry, step.grid[0], rows, tile):
            begun = Row(entry, last, (begun.batches[0], batch), step.grid[0], rows, tile)
            continue
        if begun:
            if begun.batches[1] != batch - 1:
                raise PosterEdgeError(f"the plan of {kernel} changes between batches {begun.batches[1]} and {batch}")
            yield begun
        begun = Row(entry, last, (batch, batch), step.grid[0], rows, tile)
    assert begun is not None
    yield begun


def _tiling(step: Launch, shape: FusionShape, batch: int) -> tuple[int, int]:
    """Rows of a sample and of a tile, such that programs in y are the tiles of all samples; (0, 0): the samples."""
    tile = int(step.constants.get("BM", 0))
    rows = shape.tokens if step.kernel == "enter" else shape.per_stream
    programs = -(-batch * rows // tile) if tile else batch
    if step.grid[1] != programs:
        raise PosterEdgeError(f"the plan of {step.kernel} has {step.grid[1]} programs for {batch} samples")
    return (rows, tile) if tile else (0, 0)


def write_plugin(folder: Path, kernels: Path, *, force: bool = False) -> list[int]:
    """Write a folder from which CMake builds the plugin, whole or not at all.

    Args:
        folder: new, or an earlier result with ``force``.
        kernels: folder of ``poster-edge kernels build``.
        force: replace an earlier result.

    Returns:
        the architectures that are built in.

    Raises:
        InputError: no such kernels, or files that were changed.
        UsageError: ``folder`` exists.
        UnavailableError: the folder of kernels lacks one.
    """
    shape, precision, entries = read_manifest(kernels)
    rows = table(shape, precision, entries)
    if folder.exists() and not (force and (folder / "plugin.cpp").is_file()):
        known = (folder / "plugin.cpp").is_file()
        raise UsageError(f"{folder} exists; {'pass --force to replace it' if known else 'it is no plugin of ours'}")
    work = temporary_name(folder)
    try:
        shutil.copytree(CSRC, work)
        used = list({r.entry.file: r.entry for r in rows}.values())
        for entry in used:
            write_atomic(work / entry.file, read_cubin(kernels, entry))
        shutil.copyfile(kernels / MANIFEST, work / MANIFEST)
        write_atomic(work / "images.S", _images(used))
        write_atomic(work / "table.cpp", _source(shape, precision, rows, used))
        if folder.exists():
            shutil.rmtree(folder)
        work.replace(folder)
        sync_folder(folder.parent)
    except OSError as error:
        raise PosterEdgeError(f"cannot write {folder}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return sorted({e.arch for e in used})


def _images(used: list[Entry]) -> str:
    """Assembly that takes the cubins in."""
    lines = ["// Written by poster-edge kernels plugin.", "        .section .rodata"]
    for index, entry in enumerate(used):
        symbol = f"poster_edge_image_{index}"
        lines += [
            "        .balign 64",
            f"        .global {symbol}",
            f"        .hidden {symbol}",
            f"{symbol}:",
            f'        .incbin "{entry.file}"',
        ]
    return "\n".join([*lines, '        .section .note.GNU-stack,"",%progbits', ""])


def _source(shape: FusionShape, precision: str, rows: list[Row], used: list[Entry]) -> str:
    """``table.cpp``."""
    index = {entry.file: i for i, entry in enumerate(used)}
    images = "\n".join(f'extern "C" unsigned char const poster_edge_image_{i}[];' for i in range(len(used)))
    sizes = ", ".join(map(str, (shape.per_stream, shape.heads, shape.ratio, int(shape.mix), shape.levels)))
    widths = ", ".join(map(str, shape.dims))
    lines = [
        f"    {{Kernel::{_NAMES[r.entry.kernel]}, {r.entry.arch}, {str(r.last).lower()}, {r.batches[0]}, "
        f"{r.batches[1]}, {r.grid_x}, {r.rows}, {r.tile}, {r.entry.warps}, {r.entry.shared}, {r.entry.trailing}, "
        f'"{r.entry.entry}", poster_edge_image_{index[r.entry.file]}}},'
        for r in rows
    ]
    return f"""// Written by poster-edge kernels plugin; {MANIFEST} says what was compiled with what.

#include "table.h"

{images}

namespace poster_edge {{

Shape const kShape = {{{sizes}, {{{widths}}}}};
char const* const kPrecision = "{precision}";
int const kLargestBatch = {largest_batch(shape)};

Entry const kEntries[] = {{
{chr(10).join(lines)}
}};
int const kEntryCount = sizeof kEntries / sizeof kEntries[0];

}}  // namespace poster_edge
"""
