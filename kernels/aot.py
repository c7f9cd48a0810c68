"""Compiles the Triton kernels of a model to cubins for named architectures; no GPU is needed.

A folder of kernels has ``manifest.json`` and a cubin for each specialisation: sizes are compile-time
constants, so a folder serves one :class:`~poster_edge.kernels.shape.FusionShape`, any number of depths
and any batch.  :mod:`poster_edge.kernels.aot_loader` runs it where Triton is not installed.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from poster_edge import __version__
from poster_edge.errors import PosterEdgeError, UsageError
from poster_edge.files import replace_folder, temporary_name, write_atomic
from poster_edge.kernels.aot_compile import Compiled, compile_launch, source_hash, triton_version
from poster_edge.kernels.launch import ARGUMENTS, Launch, plan
from poster_edge.kernels.shape import FusionShape

MANIFEST = "manifest.json"
SCHEMA = 1
PRECISIONS = ("fp16", "bf16", "w8a16", "fp32")
#: Batches that between them reach every variant of the plan: one sample, and tiles of several.
_BATCHES = (1, 2, 8)


@dataclass(frozen=True)
class Entry:
    """One cubin of a folder.

    Attributes:
        kernel: key of :data:`poster_edge.kernels.launch.ARGUMENTS`.
        arch: 87 for sm_87.
        file: path within the folder.
        sha256: of the file.
        bytes: its size.
        entry: name of the function in it.
        signature: Triton's types of the run-time arguments, in order.
        constants: compile-time constants.
        warps: of a block.
        stages: depth of the software pipeline.
        trailing: pointers that follow the arguments and are passed as NULL.
        shared: dynamic shared memory of a launch, bytes.
        registers: of each thread.
        spills: bytes spilled by each thread.
        matrix: matrix instruction in its PTX, or "".
        ptxas: release that assembled it.
    """

    kernel: str
    arch: int
    file: str
    sha256: str
    bytes: int
    entry: str
    signature: dict[str, str]
    constants: dict[str, int | float | bool]
    warps: int
    stages: int
    trailing: int
    shared: int
    registers: int
    spills: int
    matrix: str
    ptxas: str


def launches(shape: FusionShape, precision: str, arch: int) -> list[Launch]:
    """Every specialisation that some batch needs, each once; the grid is that of the first batch."""
    found: dict[str, Launch] = {}
    for kernel in ARGUMENTS:
        for batch in _BATCHES:
            for last in (False, True) if kernel == "mix" else (False,):
                step = plan(kernel, shape, batch, precision, last=last, capability=divmod(arch, 10))
                found.setdefault(f"{kernel} {sorted(step.constants.items())} {step.warps} {step.stages}", step)
    return list(found.values())


def build_folder(
    folder: Path,
    shape: FusionShape,
    archs: Sequence[int],
    *,
    model: str,
    precision: str = "fp16",
    ptx: bool = False,
    force: bool = False,
    cache: Path | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> list[Entry]:
    """Compile all kernels of a model and write them with their manifest, whole or not at all.

    Args:
        folder: new, or an earlier result with ``force``.
        shape: the model's sizes.
        archs: 87 for sm_87, 80 or later.
        model: name for the manifest.
        precision: of the weights and activations.
        ptx: keep the PTX beside each cubin.
        force: replace an earlier result.
        cache: folder of compiled kernels [default: the user's].
        report: is told about each kernel.

    Raises:
        UsageError: an architecture, precision or shape that the kernels do not serve, or ``folder`` exists.
        UnavailableError: no Triton, or no ptxas that knows the architecture.
    """
    _check(folder, shape, archs, precision, force=force)
    work = temporary_name(folder)
    try:
        entries = []
        for arch in dict.fromkeys(archs):
            for step in launches(shape, precision, arch):
                compiled = compile_launch(step, precision, arch, cache=cache)
                entries.append(_store(work, step, compiled, ptx=ptx))
                report(_line(entries[-1]))
        write_atomic(work / MANIFEST, json.dumps(_manifest(shape, model, precision, entries), indent=1) + "\n")
        replace_folder(work, folder)
    except OSError as error:
        raise PosterEdgeError(f"cannot write {folder}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return entries


def _check(folder: Path, shape: FusionShape, archs: Sequence[int], precision: str, *, force: bool) -> None:
    if precision not in PRECISIONS:
        raise UsageError(f"unknown precision '{precision}'; known: {', '.join(PRECISIONS)}")
    if reason := shape.unsupported():
        raise UsageError(f"the fused kernels do not serve {reason}")
    if not archs or min(archs) < 80:
        raise UsageError("Triton's kernels are compiled for sm_80 and later; Turing has the CUDA kernel k1 only")
    if folder.exists() and not (force and (folder / MANIFEST).is_file()):
        hint = "pass --force to replace it" if (folder / MANIFEST).is_file() else "it is no folder of kernels"
        raise UsageError(f"{folder} exists; {hint}")


def _store(work: Path, step: Launch, compiled: Compiled, *, ptx: bool) -> Entry:
    digest = hashlib.sha256(compiled.cubin).hexdigest()
    name = f"sm_{compiled.arch}/{step.kernel}-{digest[:8]}.cubin"
    write_atomic(work / name, compiled.cubin)
    if ptx:
        write_atomic((work / name).with_suffix(".ptx"), compiled.ptx)
    r = compiled.resources
    return Entry(
        kernel=step.kernel,
        arch=compiled.arch,
        file=name,
        sha256=digest,
        bytes=len(compiled.cubin),
        entry=compiled.entry,
        signature=compiled.signature,
        constants=step.constants,
        warps=step.warps,
        stages=step.stages,
        trailing=compiled.trailing,
        shared=r.shared,
        registers=r.registers,
        spills=r.spills,
        matrix=r.matrix,
        ptxas=compiled.ptxas,
    )


def _manifest(shape: FusionShape, model: str, precision: str, entries: list[Entry]) -> dict[str, object]:
    return {
        "schema": SCHEMA,
        "model": model,
        "precision": precision,
        "shape": asdict(shape),
        "tools": {"poster-edge": __version__, "triton": triton_version()},
        "source": source_hash(),
        "kernels": [asdict(e) for e in entries],
    }


def _line(e: Entry) -> str:
    return f"sm_{e.arch} {e.kernel}: {e.registers} registers, {e.shared / 1024:.0f} KiB shared, {e.spills} B spilled"
