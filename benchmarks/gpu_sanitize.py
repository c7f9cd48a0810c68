"""The fused kernels under compute-sanitizer: what it found, as a row.

    python benchmarks/gpu_sanitize.py {triton|built}

runs the kernels once, at the smallest sizes; compute-sanitizer is put in front of it.  Every tensor is an
allocation of its own, so that an access beside one is seen.  ``built``: CUDA C++ k1, and the kernels that the
TensorRT plugin carries, launched by its C++.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("PYTORCH_NO_CUDA_MEMORY_CACHING", "1")

import torch
from gpu_common import ROOT, Row

_SECONDS = 60


def sanitizer_rows(tool: str, kernels: str = "triton") -> Iterator[Row]:
    """One row: "0 errors", or what was found; a tool that cannot run here says so and is no failure."""
    from poster_edge.kernels.toolchain import find_tool

    what = f"compute-sanitizer {tool}" + ("" if kernels == "triton" else ", k1 and plugin")
    sanitizer = find_tool("compute-sanitizer")
    if sanitizer is None:
        yield {"what": what, "ok": None, "note": "not checked: not installed"}
        return
    # torch asks the driver for functions that it does not have, which is no error of a kernel.
    command = [str(sanitizer), "--tool", tool, "--error-exitcode", "9", "--print-limit", "5"]
    command += ["--report-api-errors", "no"] if tool == "memcheck" else []
    try:
        done = subprocess.run(
            [*command, sys.executable, str(Path(__file__)), kernels],
            capture_output=True,
            text=True,
            cwd=ROOT,
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        yield {"what": what, "ok": None, "note": f"not checked: not finished in {_SECONDS} s"}
        return
    yield {"what": what, **verdict(done.returncode, done.stdout + done.stderr)}


def verdict(code: int, said: str) -> Row:
    """What a run of compute-sanitizer says."""
    lines = [line.removeprefix("========= ").strip() for line in said.splitlines() if line.startswith("=========")]
    summary = next((line for line in reversed(lines) if "SUMMARY" in line), "")
    ran = "kernels ran" in said
    if code == 0 and ran and re.search(r"SUMMARY: 0 (errors|hazards)", summary):
        return {"ok": True, "note": summary}
    if not ran and not re.search(r"SUMMARY: [1-9]", summary):
        # It refused the device or the program did not start: nothing was checked.
        last = [line for line in said.splitlines() if line.strip()][-1:]
        return {"ok": None, "note": f"not checked, exit code {code}: {' '.join(last)[:300]}"}
    first = [line for line in lines if not line.startswith(("COMPUTE", "RACECHECK", "ERROR SUMMARY"))][:3]
    return {"ok": code == 0 and "SUMMARY: 0 " in summary, "note": f"{summary}; {' | '.join(first)[:300]}"}


@torch.no_grad()
def run_kernels() -> None:
    """Every kernel and tile size once, in three precisions, on random weights at poster-nano's sizes."""
    from poster_edge.kernels import chain
    from poster_edge.kernels.pack import ACTIVATIONS, pack
    from poster_edge.kernels.triton.jit import launch
    from poster_edge.models.config import CONFIGS
    from poster_edge.models.fusion import FusionStage
    from poster_edge.models.poster_config import PosterConfig

    config = CONFIGS["poster-nano"]
    assert isinstance(config, PosterConfig)
    torch.manual_seed(0)
    stage = FusionStage(config, 0.0).eval()
    for precision in ("fp16", "w8a16", "fp32"):
        depth = pack(stage.state_dict(), heads=config.heads, precision=precision).to("cuda")
        for batch in (1, 3):
            levels = [torch.randn(batch, config.tokens, d).to("cuda", ACTIVATIONS[precision]) for d in config.dims]
            first = chain.run(levels, [depth, depth], launch)
            assert first.float().isfinite().all()
    torch.cuda.synchronize()
    print("kernels ran", flush=True)


@torch.no_grad()
def run_built() -> None:
    """CUDA k1 on row sums of its own and on given ones, and the plugin's pass, on poster-nano's weights."""
    from gpu_plugin import Plugin, compiled, make, packaged

    from poster_edge.kernels import reference
    from poster_edge.kernels.cuda.launch import K1
    from poster_edge.kernels.cuda.problem import K1Weights

    _, depths = packaged("fp16")
    shape, device = depths[0].shape, torch.device("cuda")
    k1, weights = K1(), K1Weights.from_packed(depths[0]).to("cuda")
    with tempfile.TemporaryDirectory() as scratch:
        plugin = Plugin(compiled(make(Path(scratch), depths[0])), depths, device)
    for batch in (1, 3):
        x = torch.randn(batch, shape.tokens, shape.width).half()
        for partials in (None, reference.partials(x.float(), shape).contiguous().cuda()):
            assert k1(x.cuda(), weights, partials=partials).isfinite().all()
        levels = [t.contiguous().cuda() for t in x.split(shape.dims, dim=-1)]
        out, workspace = plugin.buffers(batch)
        plugin.enqueue(levels, out, workspace, torch.cuda.current_stream().cuda_stream)
        torch.cuda.synchronize()
        assert out.isfinite().all()
    print("kernels ran", flush=True)


if __name__ == "__main__":
    run_built() if sys.argv[1:] == ["built"] else run_kernels()
