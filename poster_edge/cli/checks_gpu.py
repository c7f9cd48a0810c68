"""The checks of ``poster-edge doctor`` that concern NVIDIA GPUs: driver, CUDA package, TensorRT, engine cache."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

from poster_edge.cli.checks import Check
from poster_edge.errors import PosterEdgeError
from poster_edge.optional import EXTRAS, available

_NOT_NEEDED = "not needed: everything runs on the CPU"


def gpu_checks() -> list[Check]:
    """Every check, in the order in which they are shown."""
    from poster_edge.export.tensorrt_api import FLAVOURS

    flavours = [partial(_tensorrt, flavour) for flavour in FLAVOURS]
    checks: list[Callable[[], Check]] = [_gpu, _cuda, *flavours, _engines]
    return [check() for check in checks]


def _gpu() -> Check:
    from poster_edge.export.gpu import visible_gpus

    board = Path("/etc/nv_tegra_release")
    release = f" ({board.read_text().splitlines()[0].lstrip('# ')})" if board.is_file() else ""
    gpus = visible_gpus()
    if gpus:
        found = "; ".join(
            f"cuda:{g.index} {g.name}, compute capability {g.compute_capability}, CUDA {g.cuda}"
            + (f", driver {g.driver}" if g.driver else "")
            for g in gpus
        )
        return Check("NVIDIA GPU", "ok", found + release)
    if release:
        return Check(
            "NVIDIA GPU", "absent", "the driver shows none" + release, "start the container with --runtime nvidia"
        )
    return _gpu_that_cuda_does_not_see()


def _gpu_that_cuda_does_not_see() -> Check:
    """What the driver's own tool says where CUDA shows no GPU."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return Check("NVIDIA GPU", "absent", "no driver (neither libcuda.so.1 nor nvidia-smi)", _NOT_NEEDED)
    query = [tool, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Check("NVIDIA GPU", "absent", str(error), "reinstall the driver")
    lines = (done.stdout + done.stderr).strip().splitlines() or [f"nvidia-smi ended with {done.returncode}"]
    if done.returncode:
        return Check("NVIDIA GPU", "absent", lines[0], "reinstall the driver")
    return Check(
        "NVIDIA GPU", "absent", f"{lines[0]}, but CUDA cannot use it", "see CUDA_VISIBLE_DEVICES, or reinstall"
    )


def _cuda() -> Check:
    from poster_edge.runtime.device_memory import PACKAGES, choose_package

    there = [name for name, module in PACKAGES.items() if available(module)]
    if not there:
        remedy = f"pip install 'poster-edge[{EXTRAS['tensorrt']}]', or pip install pycuda"
        return Check("CUDA for Python", "absent", "needed for: --runtime tensorrt, tensorrt-rtx", remedy)
    try:
        chosen = choose_package()
    except PosterEdgeError as error:
        return Check("CUDA for Python", "absent", str(error), "correct POSTER_EDGE_CUDA")
    return Check("CUDA for Python", "ok", f"{chosen} is used" + (f" ({', '.join(there)})" if len(there) > 1 else ""))


def _tensorrt(flavour: str) -> Check:
    from poster_edge.export.gpu import visible_gpus
    from poster_edge.export.tensorrt_api import installed, load

    remedy = f"pip install 'poster-edge[{flavour}]'"
    if not installed(flavour):
        return Check(flavour, "absent", f"needed for: --runtime {flavour}, export --format {flavour}", remedy)
    try:
        tensorrt = load(flavour)
    except PosterEdgeError as error:
        return Check(flavour, "absent", " ".join(str(error).split()), remedy)
    without = "builds engines; no GPU here to run them" if tensorrt.is_rtx else "no GPU here"
    return Check(flavour, "ok", tensorrt.title + ("" if visible_gpus() else f", {without}"))


def _engines() -> Check:
    from poster_edge.runtime.engine_cache import EngineCache, cache_folder

    folder = cache_folder()
    if not folder.exists():
        return Check("engine cache", "ok", f"{folder}: empty")
    try:
        records = EngineCache(folder).records()
    except PosterEdgeError as error:
        return Check("engine cache", "absent", str(error), 'see the README, "TensorRT"')
    size = sum(r.bytes for r in records.values()) / (1 << 20)
    return Check("engine cache", "ok", f"{folder}: {len(records)} engines, {size:.0f} MiB")
