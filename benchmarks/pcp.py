"""Speed of the PCP activation in several forms against ReLU, and of CF-DAN with either, in turns in one run.

    python benchmarks/pcp.py [--threads 2]

Writes ``results/pcp.csv``: a row per runtime, form and tensor size.  Each form is compared with the
reference first; a form that is wrong is not timed.
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from run_all import RESULTS, environment
from torch import Tensor, nn
from torch.nn import functional as F

from poster_edge.export.onnx import export_onnx
from poster_edge.models.build import build_network
from poster_edge.models.config import CONFIGS
from poster_edge.models.pcp import KNOT, TABLE, pcp, pcp_reference
from poster_edge.runtime.timing import interleaved

#: Side of the images (N, 3, S, S) that are timed, and N: about a gate vector of 512, 16 of them, a map of 64x56x56.
SIDE, BATCHES = 13, (1, 16, 396)


def powers(x: Tensor) -> Tensor:
    """PCP as truncated cubes: the upper piece differs from the one below by a multiple of (x - KNOT)³."""
    (below, b, c, _), (above, _, _, _), (top, _, _, _) = TABLE
    t = x.clamp(-1.0, 1.0)
    over = (t - KNOT).relu()
    return ((F.leaky_relu(t, below / above) * above + b) * t + c) * t + over * over * over * (top - above)


FORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "pcp": pcp,
    "pcp, truncated cubes": powers,
    "pcp, a choice per piece": pcp_reference,
    "gelu": F.gelu,
    "mish": F.mish,
}


class Form(nn.Module):
    """One of :data:`FORMS`."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        return FORMS[self.name](x)


def check() -> None:
    """Every form of PCP is PCP.

    Raises:
        SystemExit: names the form that is not.
    """
    x = torch.linspace(-2, 2, 100_001, dtype=torch.float64)
    for name, form in FORMS.items():
        if name.startswith("pcp") and not torch.allclose(form(x), pcp_reference(x), rtol=0, atol=1e-12):
            raise SystemExit(f"{name} is not PCP; nothing was timed")


def exported(model: nn.Module, size: int, folder: Path, threads: int) -> tuple[Callable[[Any], Any], int]:
    """A call of the exported model in onnxruntime and the nodes of its graph."""
    path = folder / "m.onnx"
    nodes = len(export_onnx(model, size, path).graph.node)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    return (lambda x: session.run(None, {"image": x})), nodes


def torch_calls(batch: int, *, backward: bool) -> dict[str, Callable[[], object]]:
    """Calls of every form in eager PyTorch."""
    x = torch.randn(batch, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)).requires_grad_(backward)

    def call(form: Callable[[Tensor], Tensor]) -> object:
        y = form(x)
        return torch.autograd.grad(y.sum(), x) if backward else y

    return {name: (lambda form=form: call(form)) for name, form in FORMS.items()}


def network_calls(folder: Path, threads: int) -> tuple[dict[str, Callable[[], object]], dict[str, int]]:
    """CF-DAN at full size, batch 1, in onnxruntime, by its activation."""
    image = np.random.default_rng(0).normal(size=(1, 3, 224, 224)).astype(np.float32)
    calls: dict[str, Callable[[], object]] = {}
    nodes = {}
    for kind in ("relu", "pcp"):
        torch.manual_seed(0)
        model = build_network(replace(CONFIGS["cf-dan"], activation=kind)).eval()  # type: ignore[call-arg]
        run, nodes[kind] = exported(model, 224, folder, threads)
        calls[kind] = lambda run=run: run(image)
    return calls, nodes


def rows_of(
    where: str, elements: int, calls: dict[str, Callable[[], object]], nodes: dict[str, int], rounds: int
) -> list[dict[str, Any]]:
    """Time the calls in turns; one row each."""
    times = interleaved(calls, rounds=rounds, settle_s=0.005 if elements else 0.03)
    base = float(np.median(times["relu"]))
    rows = []
    for name, values in times.items():
        p10, median, p90 = (float(v) for v in np.percentile(values, (10, 50, 90)))
        rows.append(
            {
                "where": where,
                "activation": name,
                "elements": elements or "",
                "nodes": nodes.get(name, ""),
                "median_us": round(1e3 * median, 2),
                "p10_us": round(1e3 * p10, 2),
                "p90_us": round(1e3 * p90, 2),
                "times_relu": round(median / base, 3),
                "calls": len(values),
            }
        )
        print(f"{where:28} {elements:8} {name:26} {1e3 * median:10.1f} us {median / base:7.2f}x", flush=True)
    return rows


def measure(threads: int, rounds: int) -> list[dict[str, Any]]:
    """All rows."""
    rows = []
    with tempfile.TemporaryDirectory() as scratch, torch.no_grad():
        forms = {name: exported(Form(name), SIDE, Path(scratch), threads) for name in FORMS}
        nodes = {name: count for name, (_, count) in forms.items()}
        for batch in BATCHES:
            x = np.random.default_rng(0).normal(size=(batch, 3, SIDE, SIDE)).astype(np.float32)
            calls = {name: (lambda run=run, x=x: run(x)) for name, (run, _) in forms.items()}
            rows += rows_of("onnxruntime", x.size, calls, nodes, rounds)
            rows += rows_of("PyTorch eager", x.size, torch_calls(batch, backward=False), {}, rounds)
            with torch.enable_grad():
                backward = torch_calls(batch, backward=True)
                rows += rows_of("PyTorch eager and gradient", x.size, backward, {}, rounds)
        calls, nodes = network_calls(Path(scratch), threads)
        rows += rows_of("cf-dan in onnxruntime", 0, calls, nodes, max(rounds // 3, 20))
    return rows


def main() -> None:
    """Check, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=150)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    check()
    machine = {**environment(), "torch": torch.__version__, "threads": args.threads}
    # Other work slows all candidates alike, but a reader should know of it.
    machine["load_average"] = round(os.getloadavg()[0], 1)
    kept = {k: machine[k] for k in ("cpu", "threads", "load_average", "onnxruntime", "torch", "commit", "date")}
    rows = [{**row, **kept} for row in measure(args.threads, args.rounds)]
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    (RESULTS / "pcp.csv").write_text(text.getvalue())


if __name__ == "__main__":
    main()
