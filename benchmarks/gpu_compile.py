"""Compiles Triton's kernels ahead of their use, on all cores: one after another they would take minutes.

    python benchmarks/gpu_compile.py ROWS SET...

A set is a case of :data:`SHAPES` and precisions: ``poster:fp16,w8a16``.  The results lie in Triton's cache,
where every later process finds them.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from gpu_common import Row, append_rows, explain

from poster_edge.kernels.aot import launches
from poster_edge.kernels.launch import Launch, signature
from poster_edge.kernels.shape import FusionShape

#: Case -> sizes of its depths.
SHAPES = {
    "nano": FusionShape(37, 2, (128, 64, 32), mix=True),
    "no-mix": FusionShape(37, 2, (128, 64, 32), mix=False),
    "poster": FusionShape(50, 8, (512, 256, 128), mix=True),
}
_TYPES = {"*fp32": torch.float32, "*fp16": torch.float16, "*bf16": torch.bfloat16, "*i8": torch.int8}

Job = tuple[Launch, str]


def jobs(case: str, precisions: list[str], arch: int) -> list[Job]:
    """Every specialisation that a case needs."""
    return [(step, p) for p in precisions for step in launches(SHAPES[case], p, arch)]


def compile_all(wanted: list[Job]) -> Iterator[tuple[Job, str]]:
    """Compile in processes of their own; gives each job with its error, "" where it has none."""
    workers = max(1, min(len(wanted), (os.cpu_count() or 2) - 1))
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"))
    try:
        pending = {pool.submit(compile_one, job): job for job in wanted}
        for done in as_completed(pending):
            problem = done.exception()
            yield pending[done], explain(problem) if problem else done.result()
    finally:
        # A caller that stops early does not wait for the rest.
        pool.shutdown(wait=False, cancel_futures=True)


def compile_one(job: Job) -> str:
    """Compile one launch for the GPU that is there, or find it in Triton's cache; returns the error, or ""."""
    from poster_edge.kernels.triton.jit import KERNELS

    step, precision = job
    # A tensor's type stands for a tensor that begins at a multiple of 16, as all of torch's do.
    arguments: list[Any] = [_TYPES.get(t, 3) for t in signature(step.kernel, precision).values()]
    try:
        KERNELS[step.kernel].warmup(
            *arguments, grid=step.grid, **step.constants, num_warps=step.warps, num_stages=step.stages
        )
    except Exception as problem:
        return explain(problem)
    return ""


def compile_rows(sets: list[str]) -> Iterator[Row]:
    """One row for all that compiled, one for each kernel that did not."""
    began = time.monotonic()
    major, minor = torch.cuda.get_device_capability()
    pairs = [s.split(":") for s in sets]
    wanted = [job for case, precisions in pairs for job in jobs(case, precisions.split(","), 10 * major + minor)]
    fine = 0
    for (step, precision), error in compile_all(wanted):
        if error:
            yield {
                "what": f"compile {step.kernel} {step.constants}",
                "precision": precision,
                "ok": False,
                "note": error,
            }
        fine += not error
    note = f"{fine} of {len(wanted)} kernels in {time.monotonic() - began:.0f} s"
    yield {"what": f"compile for sm_{major}{minor}", "ok": fine == len(wanted), "note": note}


if __name__ == "__main__":
    sys.exit(append_rows(Path(sys.argv[1]), compile_rows(sys.argv[2:])))
