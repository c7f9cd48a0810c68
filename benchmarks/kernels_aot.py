"""What every kernel takes of every architecture: registers, shared memory, spills, matrix instruction.

    python benchmarks/kernels_aot.py [--arch sm_87 ...] [--precision fp16 ...] [--out FILE.csv]

Compiled here, run nowhere: needs nvcc of CUDA 13 and Triton, no GPU.  Compiled kernels are kept in the cache.
"""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

from poster_edge.files import write_atomic
from poster_edge.kernels.aot import launches
from poster_edge.kernels.aot_compile import compile_launch, source_hash, triton_version
from poster_edge.kernels.cuda.build import KERNELS, build
from poster_edge.kernels.shape import FusionShape
from poster_edge.kernels.toolchain import ARCHITECTURES, SHARED_LIMIT, Resources, parse_arch

RESULTS = Path(__file__).resolve().parent / "results"
#: POSTER's sizes, which all its depths share.
POSTER = FusionShape(50, 8, (512, 256, 128), True, 2)
COLUMNS = (
    "compiler",
    "kernel",
    "variant",
    "arch",
    "precision",
    "threads",
    "registers",
    "shared_bytes",
    "shared_limit_bytes",
    "spill_bytes",
    "stack_bytes",
    "matrix_instruction",
    "cubin_bytes",
    "versions",
    "source_sha256",
    "date",
)
Row = dict[str, str | int]


def _row(arch: int, resources: Resources, **rest: str | int) -> Row:
    return {
        "arch": f"sm_{arch}",
        "registers": resources.registers,
        "shared_bytes": resources.shared,
        "shared_limit_bytes": SHARED_LIMIT[arch],
        "spill_bytes": resources.spills,
        "stack_bytes": resources.stack,
        "matrix_instruction": resources.matrix,
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        **rest,
    }


def cuda_rows(archs: list[int]) -> Iterator[Row]:
    """The CUDA kernels."""
    for arch in archs:
        for kernel in KERNELS:
            b = build(kernel, arch)
            yield _row(
                arch,
                b.resources,
                compiler="nvcc",
                kernel=kernel,
                variant="",
                precision="fp16",
                threads=128,
                cubin_bytes=b.cubin.stat().st_size,
                versions=f"nvcc {b.compiler}",
                source_sha256=b.source,
            )


def triton_rows(archs: list[int], precision: str) -> Iterator[Row]:
    """The Triton kernels, every variant that some batch needs."""
    for arch in (a for a in archs if a >= 80):
        for step in launches(POSTER, precision, arch):
            c = compile_launch(step, precision, arch)
            shown = [f"{k}={step.constants[k]}" for k in ("BM", "LAST") if k in step.constants]
            yield _row(
                arch,
                c.resources,
                compiler="triton",
                kernel=step.kernel,
                variant=" ".join(shown),
                precision=precision,
                threads=32 * step.warps,
                cubin_bytes=len(c.cubin),
                versions=f"triton {triton_version()}, ptxas {c.ptxas}",
                source_sha256=source_hash(),
            )


def main() -> None:
    """Compile everything that was asked for and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", nargs="+", type=parse_arch, default=list(ARCHITECTURES))
    parser.add_argument("--precision", nargs="+", default=["fp16"])
    parser.add_argument("--out", type=Path, default=RESULTS / "kernels_aot.csv")
    args = parser.parse_args()
    rows = list(cuda_rows(args.arch))
    for precision in args.precision:
        for row in triton_rows(args.arch, precision):
            rows.append(row)
            print(row["arch"], row["kernel"], row["variant"], row["registers"], row["spill_bytes"], flush=True)
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(args.out, text.getvalue())


if __name__ == "__main__":
    main()
