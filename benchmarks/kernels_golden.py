"""All depths of POSTER chained with weights of real size: how the kernels' error grows, and what it is at the logits.

    python benchmarks/kernels_golden.py [--golden FOLDER] [--precisions fp32,fp16,w8a16] [--out FOLDER]

Weights are those that ``official_weights.py`` in ``--golden`` rebuilds, the picture is its first one (batch 1).
Without a GPU the kernels run in Triton's interpreter: some minutes.  A row is the relative L2 error, against
float64, of what a depth hands on (all levels together), or of the logits: of the fused kernels, of PyTorch's own
operators in the same type, and of float64 arithmetic on the weights as the kernels hold them, rounded to FP16 or
INT8, which is the part that no kernel can avoid.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from datetime import date
from pathlib import Path

import torch
from kernel_cases import ROOT, coarse, golden, launcher, pyramid
from torch import Tensor

from poster_edge.files import write_atomic
from poster_edge.kernels import reference
from poster_edge.kernels.chain import enter, run_depth
from poster_edge.kernels.numerics import BARS, FACTOR, relative, widened
from poster_edge.kernels.pack import ACTIVATIONS, PackedDepth, pack
from poster_edge.models.poster import Poster

PRECISIONS = ("fp32", "fp16", "w8a16")
#: A depth's bar, times this: errors of the depths hardly add up along the residual stream.
DEPTHS_FACTOR = 3


@dataclass(frozen=True)
class Row:
    """One comparison with float64.

    Attributes:
        precision: of weights and activations.
        stage: "depth 1" …, or "logits".
        error: of the fused kernels.
        torch_error: of PyTorch's own operators; with INT8 weights, which it does not have, in FP16.
        rounding_error: of exact arithmetic on the rounded weights.
        bar: what ``error`` may be.
        ok: within the bar, and, but for INT8 weights, within :data:`FACTOR` of PyTorch's own error.
        device: that computed.
        seconds: for all depths, without the comparison.
        versions: of torch and triton.
        date: of the run.
    """

    precision: str
    stage: str
    error: float
    torch_error: float
    rounding_error: float
    bar: float
    ok: bool
    device: str
    seconds: float
    versions: str
    date: str


def chained(model: Poster, levels: list[Tensor], precision: str, device: str) -> tuple[list[Tensor], float]:
    """What the fused kernels hand on after each depth, (1, T, W), in float64, and the seconds that it took."""
    launch = launcher() if device == "cuda" else coarse(launcher())
    depths = [d.to(device) for d in packed(model, precision)]
    given = [t.to(device, depths[0].dtype) for t in levels]
    began = time.perf_counter()
    space = enter(given, depths[0], launch, poison=True)
    found = [run_depth(space, depth, launch).double().cpu() for depth in depths]
    return found, time.perf_counter() - began


def packed(model: Poster, precision: str) -> list[PackedDepth]:
    """The weights of all depths."""
    config = model.config
    return [pack(s.state_dict(), heads=config.heads, precision=precision) for s in model.pyramid_fuse.blocks]


def plain(model: Poster, levels: list[Tensor], dtype: torch.dtype, device: str) -> list[Tensor]:
    """The same by PyTorch's own operators in a type."""
    fusion = model.pyramid_fuse
    state = {k: v.clone() for k, v in fusion.state_dict().items()}
    fusion.to(device, dtype)
    given, found = [t.to(device, dtype) for t in levels], []
    for stage in fusion.blocks:
        given = stage(given)
        found.append(reference.join_levels(given).double().cpu())
    fusion.to("cpu", torch.float64).load_state_dict(state)
    return found


def exact(depths: list[PackedDepth], levels: list[Tensor]) -> list[Tensor]:
    """The same in float64 on packed weights."""
    x, found = reference.join_levels([t.double() for t in levels]), []
    for depth in depths:
        x = reference.depth(x, depth)
        found.append(x)
    return found


def compare(model: Poster, levels: list[Tensor], precision: str, device: str) -> Iterator[Row]:
    """Rows of one precision."""
    width = model.config.dims[0]

    def classify(x: Tensor) -> Tensor:
        return model.head(model.se_block(model.pyramid_fuse.norm(x[:, 0, :width])))

    expected = exact(packed(model, "fp64"), levels)
    found, seconds = chained(model, levels, precision, device)
    own = plain(model, levels, ACTIVATIONS[precision], device)
    rounded = exact([widened(d) for d in packed(model, precision)], levels)
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU, Triton's interpreter"
    versions = f"torch {torch.__version__}, triton {sys.modules['triton'].__version__}"
    stages = {f"depth {i}": values for i, values in enumerate(zip(found, own, rounded, expected, strict=True), start=1)}
    last = [classify(values) for values in stages[f"depth {len(expected)}"]]
    stages["logits"] = tuple(last)  # type: ignore[assignment]
    bar = DEPTHS_FACTOR * BARS[precision]
    for stage, (ours, torchs, weights, reference_value) in stages.items():
        errors = [relative(t, reference_value) for t in (ours, torchs, weights)]
        ok = errors[0] <= bar and (precision == "w8a16" or errors[0] <= FACTOR * errors[1])
        yield Row(precision, stage, *errors, bar, ok, name, seconds, versions, date.today().isoformat())


def write(rows: list[Row], path: Path) -> None:
    """Write rows as CSV; those of other precisions that are there stay."""
    lines = [{k: f"{v:.3e}" if isinstance(v, float) else v for k, v in asdict(r).items()} for r in rows]
    for line, row in zip(lines, rows, strict=True):
        line["seconds"] = f"{row.seconds:.0f}"
    if path.is_file():
        with path.open(newline="") as file:
            done = {r.precision for r in rows}
            lines = [x for x in csv.DictReader(file) if x["precision"] not in done] + lines
    lines.sort(key=lambda x: PRECISIONS.index(str(x["precision"])))
    text = io.StringIO()
    writer = csv.DictWriter(text, [f.name for f in fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, text.getvalue())


def main() -> None:
    """Compare each precision and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--golden", type=Path, default=ROOT.parent / "shared" / "golden")
    parser.add_argument("--precisions", default=",".join(PRECISIONS))
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    args = parser.parse_args()
    if not (args.golden / "official_weights.py").is_file():
        sys.exit(f"{args.golden} has no official_weights.py: name its folder with --golden")
    device, failed = "cuda" if torch.cuda.is_available() else "cpu", False
    with torch.inference_mode():
        model, x = golden(args.golden)
        levels = pyramid(model, x[:1])
        model.double()
        for precision in args.precisions.split(","):
            rows = list(compare(model, levels, precision, device))
            write(rows, args.out / "kernels_golden.csv")
            for row in rows:
                print(
                    f"{precision:6} {row.stage:8} {row.error:9.2e}  torch {row.torch_error:9.2e}  "
                    f"weights alone {row.rounding_error:9.2e}  {'ok' if row.ok else 'FAILED'}",
                    flush=True,
                )
            failed = failed or not all(r.ok for r in rows)
    if failed:
        sys.exit("errors above their bars")


if __name__ == "__main__":
    main()
