"""The groups of ``gpu.py check``, each in a process of its own, side by side.

    python benchmarks/gpu_check.py GROUP ROWS [--cpu]

runs one group and writes its rows to the file ROWS, one JSON object a line.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from gpu_common import DTYPES, Group, Row, append_rows, attempt, exact_float32, relative, run_groups

from poster_edge.kernels.attention import attention, attention_reference
from poster_edge.models.build import build_network
from poster_edge.models.config import CONFIGS

#: Largest relative L2 error of the logits against float64 on the CPU; PyTorch on the CPU reaches half of it.
BARS = {"fp32": 1e-5, "fp16": 1e-2, "bf16": 4e-2}
ATTENTION_SHAPES = [(1, 8, 50, 64), (8, 8, 50, 16), (3, 2, 37, 32)]
NAMES = ("poster-nano", "poster-t", "poster-s", "poster", "fer-vt", "cf-dan")
TOY_NAMES = ("poster-nano", "fer-vt-nano", "cf-dan-nano")


def attention_rows(device: str) -> Iterator[Row]:
    """PyTorch's fused attention as the models call it."""
    exact_float32()
    for shape in ATTENTION_SHAPES:
        q, k, v = (
            torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(i)) for i in range(3)
        )
        expected = attention_reference(q, k, v, scale=shape[-1] ** -0.5)
        for name, dtype in DTYPES.items():
            found = attention(*(t.to(device, dtype) for t in (q, k, v)), scale=shape[-1] ** -0.5)
            error = relative(found, expected)
            yield {"what": f"attention {shape}", "precision": name, "error": error, "ok": error <= BARS[name]}


@torch.no_grad()
def network_rows(device: str, name: str) -> Iterator[Row]:
    """A whole model in the precisions of deployment, computed by what PyTorch picks."""
    exact_float32()
    torch.manual_seed(0)
    model = build_network(CONFIGS[name]).eval()
    x = torch.randn(2, 3, model.config.input_size, model.config.input_size)
    expected = model.double()(x.double())
    for precision, dtype in DTYPES.items():
        error = relative(model.to(device, dtype)(x.to(device, dtype)), expected)
        yield {"what": name, "precision": precision, "error": error, "ok": error <= BARS[precision]}


def networks(device: str) -> Iterator[Row]:
    """Attention, then every model; one that fails hides no other."""
    yield from attempt("attention", lambda: attention_rows(device))
    for name in NAMES if device == "cuda" else TOY_NAMES:
        yield from attempt(name, lambda n=name: network_rows(device, n))  # type: ignore[misc]


def providers(device: str) -> Iterator[Row]:
    """onnxruntime's execution providers."""
    from gpu_providers import provider_rows

    yield from provider_rows(cpu=device == "cpu")


def memory(device: str) -> Iterator[Row]:
    """Memory, streams and CUDA graphs through each CUDA package."""
    from gpu_memory import memory_rows

    yield from memory_rows()


def tensorrt(device: str) -> Iterator[Row]:
    """TensorRT, where it is installed."""
    import tempfile

    from gpu_tensorrt import runner_rows

    with tempfile.TemporaryDirectory() as scratch:
        yield from runner_rows(Path(scratch))


def nano_kernels(device: str) -> Iterator[Row]:
    """Kernel by kernel at poster-nano's sizes."""
    from gpu_kernels import nano_rows

    yield from nano_rows(device)


def poster_kernels(device: str) -> Iterator[Row]:
    """Kernel by kernel at POSTER's sizes, and all its depths."""
    from gpu_kernels import poster_rows

    yield from poster_rows(device)


def dispatched(device: str) -> Iterator[Row]:
    """Whole models through the dispatcher."""
    from gpu_kernels import model_rows

    for name in ("poster-nano", "poster") if device == "cuda" else ("poster-nano",):
        yield from attempt(name, lambda n=name: model_rows(device, n))  # type: ignore[misc]


def torch_runtime(device: str) -> Iterator[Row]:
    """``--runtime torch``, kernel by kernel and with CUDA graphs."""
    from gpu_torch import torch_rows

    yield from torch_rows(device)


def cuda_k1(device: str) -> Iterator[Row]:
    """The CUDA C++ kernel."""
    from gpu_kernels import k1_rows

    yield from k1_rows(device)


def built_ahead(name: str, precision: str) -> Callable[[str], Iterator[Row]]:
    """Kernels that ``poster-edge kernels build`` makes."""

    def rows(device: str) -> Iterator[Row]:
        from gpu_kernels import aot_rows

        yield from aot_rows(device, name, precision)

    return rows


def plugin(device: str) -> Iterator[Row]:
    """The TensorRT plugin: its launches without TensorRT, and in TensorRT where that is installed."""
    from gpu_plugin import plugin_rows

    yield from plugin_rows()


def memcheck(device: str) -> Iterator[Row]:
    """The fused kernels under compute-sanitizer's memcheck."""
    from gpu_sanitize import sanitizer_rows

    yield from sanitizer_rows("memcheck")


def memcheck_built(device: str) -> Iterator[Row]:
    """CUDA k1 and the plugin's launches under compute-sanitizer's memcheck."""
    from gpu_sanitize import sanitizer_rows

    yield from sanitizer_rows("memcheck", "built")


def racecheck(device: str) -> Iterator[Row]:
    """The fused kernels under compute-sanitizer's racecheck."""
    from gpu_sanitize import sanitizer_rows

    yield from sanitizer_rows("racecheck")


#: Name -> rows, seconds at most, whether it runs without a GPU, the groups that must have ended: "compile" where
#: Triton's kernels are run, "plugin" where its kernels are found in the cache.
GROUPS: dict[str, tuple[Callable[[str], Iterator[Row]], float, bool, tuple[str, ...]]] = {
    "networks": (networks, 80, True, ()),
    "providers": (providers, 60, True, ()),
    "memory": (memory, 40, False, ()),
    "tensorrt": (tensorrt, 100, False, ()),
    "cuda_k1": (cuda_k1, 60, False, ()),
    "plugin": (plugin, 90, False, ()),
    "nano_kernels": (nano_kernels, 60, True, ("compile",)),
    "poster_kernels": (poster_kernels, 75, False, ("compile",)),
    "dispatched": (dispatched, 60, True, ("compile",)),
    "torch_runtime": (torch_runtime, 60, True, ("compile",)),
    "memcheck": (memcheck, 70, False, ("compile",)),
    "racecheck": (racecheck, 70, False, ("compile",)),
    "memcheck_built": (memcheck_built, 70, False, ("plugin",)),
    "ahead_nano": (built_ahead("poster-nano", "fp16"), 60, False, ("compile",)),
    "ahead_int8": (built_ahead("poster-nano", "w8a16"), 60, False, ("compile",)),
    "ahead_poster": (built_ahead("poster", "fp16"), 60, False, ("compile",)),
}


def check(*, cpu: bool, seconds: float, flush: Callable[[list[Row]], None]) -> list[Row]:
    """All groups; ``flush`` is given the rows so far whenever one has ended."""
    folder = Path(__file__).resolve().parent
    variables = (("TRITON_INTERPRET", "1"), ("OMP_NUM_THREADS", "1")) if cpu else (("OMP_NUM_THREADS", "4"),)
    compiling = ("gpu_compile.py", "{rows}", "poster:fp16,fp32,bf16,w8a16")
    compiling += ("nano:fp16,fp32,bf16,w8a16", "no-mix:fp16,fp32,bf16,w8a16")
    groups = []
    if not cpu:
        groups.append(Group("compile", (str(folder / compiling[0]), *compiling[1:]), 75, variables=variables))
    for name, (_, limit, anywhere, after) in GROUPS.items():
        if cpu and not anywhere:
            continue
        command = (str(folder / "gpu_check.py"), name, "{rows}", *(["--cpu"] if cpu else []))
        groups.append(Group(name, command, 2 * limit if cpu else limit, () if cpu else after, variables))
    return run_groups(groups, at_once=max(2, 3 * (os.cpu_count() or 2) // 4), seconds=seconds, flush=flush)


def main() -> None:
    """Run one group."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("group", choices=list(GROUPS))
    parser.add_argument("rows", type=Path)
    parser.add_argument("--cpu", action="store_true")
    args = parser.parse_args()
    device = "cpu" if args.cpu else "cuda"

    def rows() -> Iterator[Row]:
        # A generator: rows are written as they come, so that a crash keeps those before it.
        yield from GROUPS[args.group][0](device)

    sys.exit(append_rows(args.rows, rows()))


if __name__ == "__main__":
    main()
