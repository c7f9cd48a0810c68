"""What a GPU machine is asked for: numerics, training, times.  Runs on the CPU at toy size with --cpu.

    python benchmarks/gpu.py check|train|bench --out FOLDER [--cpu]

``check`` compares every model in the precisions of deployment and the fused kernels with float64, and
onnxruntime's execution providers with its CPU kernels; on a GPU it runs memory, streams and CUDA graphs
through each CUDA package and, where it is installed, TensorRT against onnxruntime.  ``train`` trains one
model (--model) and can be called again to go on; ``bench`` times eager, compiled, CUDA-graph and fused
forward passes.  Each writes a JSON file with device, versions, commit and date, and prints a table.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from poster_edge.kernels.attention import attention, attention_reference  # noqa: E402
from poster_edge.models.build import build_network  # noqa: E402
from poster_edge.models.config import CONFIGS  # noqa: E402
from poster_edge.models.poster_config import PosterConfig  # noqa: E402

#: Largest relative L2 error of the logits against float64 on the CPU.
BARS = {"fp32": 1e-5, "fp16": 5e-3, "bf16": 4e-2}
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
ATTENTION_SHAPES = [(1, 8, 50, 64), (8, 8, 50, 16), (3, 2, 37, 32)]


def environment(device: str) -> dict[str, str]:
    """Device, versions, commit and date of a record."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=ROOT, check=False)
    gpu = torch.cuda.get_device_name(0) if device == "cuda" else platform.processor() or platform.machine()
    return {
        "device": gpu,
        "torch": torch.__version__,
        "cuda": str(torch.version.cuda),
        "python": platform.python_version(),
        "commit": commit.stdout.strip() or "unknown",
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    }


def relative(found: Tensor, expected: Tensor) -> float:
    """Relative L2 error."""
    return float((found.double().cpu() - expected).norm() / expected.norm())


def check(device: str, names: list[str]) -> list[dict[str, Any]]:
    """Errors against float64 on the CPU; a row fails when it is above its bar."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    rows = []
    for shape in ATTENTION_SHAPES:
        q, k, v = (
            torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(i)) for i in range(3)
        )
        expected = attention_reference(q, k, v, scale=shape[-1] ** -0.5)
        for name, dtype in DTYPES.items():
            found = attention(*(t.to(device, dtype) for t in (q, k, v)), scale=shape[-1] ** -0.5)
            error = relative(found, expected)
            rows.append({"what": f"attention {shape}", "precision": name, "error": error, "ok": error <= BARS[name]})
    for model_name in names:
        torch.manual_seed(0)
        model = build_network(CONFIGS[model_name]).eval()
        x = torch.randn(2, 3, model.config.input_size, model.config.input_size)
        with torch.no_grad():
            expected = model.double()(x.double())
            for name, dtype in DTYPES.items():
                error = relative(model.to(device, dtype)(x.to(device, dtype)), expected)
                rows.append({"what": model_name, "precision": name, "error": error, "ok": error <= BARS[name]})
    return rows


def deployment(out: Path) -> list[dict[str, Any]]:
    """What runs the exported models: GPU memory, then TensorRT."""
    from gpu_memory import memory_rows
    from gpu_tensorrt import runner_rows

    return memory_rows() + runner_rows(out)


def fused_rows(job: str, device: str, names: list[str]) -> list[dict[str, Any]]:
    """The fused kernels' rows; on the CPU in Triton's interpreter, on the smallest model alone."""
    # Before anything imports triton.
    if device == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"
    try:
        import gpu_kernels
    except ImportError as error:
        return [{"what": "fused kernels", "ok": False, "note": f"{error}"}]
    if job == "check":
        return gpu_kernels.check_kernels(device, names, (1,) if device == "cpu" else (1, 2, 3, 8))
    if device == "cpu":
        return gpu_kernels.bench_kernels(device, names, [1], lambda run, *_: [time_once_ms(run)])
    return gpu_kernels.bench_kernels(device, ["poster"], [1, 8, 64], times_ms)


def time_once_ms(run: Callable[[], Any]) -> float:
    """Wall time of one call in ms: the interpreter is far too slow for more, and its time means nothing."""
    began = time.perf_counter()
    run()
    return 1e3 * (time.perf_counter() - began)


def graphed(model: nn.Module, x: Tensor) -> Callable[[], Any]:
    """A CUDA graph of one forward pass."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            model(x)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        model(x)
    return graph.replay


def times_ms(run: Callable[[], Any], device: str, seconds: float) -> list[float]:
    """Wall times of single calls in ms, after an untimed warm-up."""
    for _ in range(3):
        run()
    out: list[float] = []
    end = time.perf_counter() + seconds
    while len(out) < 5 or (time.perf_counter() < end and len(out) < 2000):
        if device == "cuda":
            torch.cuda.synchronize()
        began = time.perf_counter()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        out.append(1e3 * (time.perf_counter() - began))
    return out


def bench(device: str, names: list[str], batches: list[int], *, compiled: bool) -> list[dict[str, Any]]:
    """Median and percentiles of a forward pass: eager, compiled, CUDA graph."""
    rows = []
    for name in names:
        for precision in ("fp32",) if device == "cpu" else ("fp32", "fp16"):
            model = build_network(CONFIGS[name]).eval().to(device, DTYPES[precision])
            for batch in batches:
                side = model.config.input_size
                x = torch.randn(batch, 3, side, side, device=device, dtype=DTYPES[precision])
                modes: dict[str, Callable[[], Any]] = {"eager": lambda m=model, x=x: m(x)}
                if compiled:
                    fast = torch.compile(model)
                    modes["compiled"] = lambda m=fast, x=x: m(x)
                with torch.no_grad():
                    if device == "cuda":
                        modes["cuda-graph"] = graphed(model, x)
                    for mode, run in modes.items():
                        values = sorted(times_ms(run, device, 1.0))
                        rows.append(
                            {
                                "what": name,
                                "precision": precision,
                                "batch": batch,
                                "mode": mode,
                                "p20_ms": values[len(values) // 5],
                                "p50_ms": statistics.median(values),
                                "p99_ms": values[int(0.99 * (len(values) - 1))],
                                "runs": len(values),
                            }
                        )
    return rows


def train(device: str, out: Path, data: Path, minutes: float, model: str) -> list[dict[str, Any]]:
    """Train a model through the command line; resumes what ``out`` holds."""
    folder = out / model
    arguments = ["--model", model, "--data", str(data / "fer2013_train_valid.npz")]
    if device == "cpu":
        arguments = ["--model", model, "--data", str(toy_faces(out)), "--epochs", "2", "--batch", "8"]
        arguments += ["--landmark-epochs", "1"]
    elif isinstance(CONFIGS[model], PosterConfig):
        arguments += ["--landmarks", str(data / "fer2013_mesh_train_valid.npz"), "--landmark-epochs", "20"]
        arguments += ["--epochs", "120", "--batch", "128"]
    command = [sys.executable, "-m", "poster_edge", "train", *arguments, "--device", device, "-o", str(folder)]
    command += ["--stop-after", str(minutes)] + (["--resume"] if (folder / "config.json").exists() else [])
    subprocess.run(command, cwd=ROOT, check=True)
    lines = (folder / "metrics.csv").read_text().splitlines()
    return [dict(zip(lines[0].split(","), lines[-1].split(","), strict=True))]


def toy_faces(out: Path) -> Path:
    """A few noise pictures in two classes, to prove that the target works without the data."""
    import numpy as np

    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (48, 48, 48), dtype=np.uint8)
    path = out / "toy.npz"
    np.savez(path, images=images, labels=np.arange(48) % 2, classes=np.array(["happy", "sad"]))
    return path


def show(rows: list[dict[str, Any]]) -> None:
    """Print rows as a plain table; a column that a row lacks stays empty."""
    columns = list(dict.fromkeys(name for r in rows for name in r))
    values = [[r.get(name, "") for name in columns] for r in rows]
    cells = [[f"{v:.4g}" if isinstance(v, float) else str(v) for v in line] for line in values]
    widths = [max(len(c), *(len(r[i]) for r in cells)) for i, c in enumerate(columns)]
    for line in [columns, *cells]:
        print("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip())


def main() -> None:
    """Run one of the three jobs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("job", choices=["check", "train", "bench"])
    parser.add_argument("--out", type=Path, default=Path("out"))
    parser.add_argument("--cpu", action="store_true", help="toy size on the CPU")
    parser.add_argument("--data", type=Path, default=ROOT / "carry", help="folder with the two FER2013 .npz files")
    parser.add_argument("--model", choices=list(CONFIGS), default="poster-nano", help="what to train")
    parser.add_argument("--minutes", type=float, default=7.0, help="of training a call")
    args = parser.parse_args()
    device = "cpu" if args.cpu else "cuda"
    if device == "cuda" and not torch.cuda.is_available():
        parser.exit(4, "no GPU here; add CPU=1 (or --cpu) for the toy size\n")
    args.out.mkdir(parents=True, exist_ok=True)
    names = ["poster-nano", "fer-vt-nano", "cf-dan-nano"]
    if not args.cpu:
        names = ["poster-nano", "poster-t", "poster-s", "poster", "fer-vt", "cf-dan"]
    if args.job == "check":
        from gpu_providers import provider_rows

        rows = check(device, names) + provider_rows(cpu=args.cpu) + ([] if args.cpu else deployment(args.out))
        rows += fused_rows("check", device, names[-1:] if args.cpu else [names[0], names[-1]])
    elif args.job == "bench":
        rows = bench(device, names, [1] if args.cpu else [1, 8, 64], compiled=not args.cpu)
        rows += fused_rows("bench", device, names)
    else:
        rows = train(device, args.out, args.data, args.minutes, args.model)
    record = {"job": args.job, "environment": environment(device), "rows": rows}
    (args.out / f"gpu_{args.job}.json").write_text(json.dumps(record, indent=1) + "\n")
    show(rows)
    if args.cpu and args.job == "check":
        print("GPU memory, CUDA graphs and TensorRT need a GPU: not checked here")
    if not all(r.get("ok", True) for r in rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
