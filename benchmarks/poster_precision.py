"""Full POSTER in FP32, FP16 and INT8: published layout, converted, exported with the gate, timed against eager.

    python benchmarks/poster_precision.py --shared FOLDER --work FOLDER [--images 64] [--rounds 20]

The weights are stand-ins (no published checkpoint can be had here): they rank speed and agreement, not accuracy.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
from pathlib import Path

import torch

from poster_edge.runtime.int8_sums import sums_int8_exactly

ROOT = Path(__file__).resolve().parent.parent


def checkpoint(shared: Path, path: Path) -> None:
    """Write the stand-in state dict as the authors publish theirs."""
    spec = importlib.util.spec_from_file_location("official_weights", shared / "golden" / "official_weights.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    state = {f"module.{k}": torch.from_numpy(v) for k, v in module.state_dict("large").items()}
    torch.save({"model_state_dict": state}, path)


def run(*arguments: str) -> None:
    """Run a command of poster-edge, loudly."""
    print("poster-edge", *arguments, flush=True)
    subprocess.run([sys.executable, "-m", "poster_edge", *arguments], check=True, cwd=ROOT)


def main() -> None:
    """Prepare in --work what is not there yet, then measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=20)
    args = parser.parse_args()
    work, shared = args.work.resolve(), args.shared.resolve()
    work.mkdir(parents=True, exist_ok=True)
    weights, floats, bundle = work / "poster.safetensors", work / "fp32", work / "int8"
    if not weights.is_file():
        checkpoint(shared, work / "poster.pth")
        run("convert", "--checkpoint", str(work / "poster.pth"), "--dataset", "rafdb", "-o", str(weights))
    if not floats.is_dir():
        run("export", "--checkpoint", str(weights), "-o", str(floats))
    if not bundle.is_dir():
        lower = ["--int8", "--half", "--calib", str(shared / "media"), "--calib-images", str(args.images)]
        run("export", "--model", str(floats), *lower, "-o", str(bundle), "--report", str(work / "page"))
    bundles = [bundle]
    if not sums_int8_exactly():
        bundles.append(work / "int8-7-bit")
        if not bundles[-1].is_dir():
            run("export", "--model", str(bundle), "--int8", "--weight-bits", "7", "-o", str(bundles[-1]))
    rounds = ["--rounds", str(args.rounds)]
    latency = ["precision_latency.py", "--checkpoint", str(weights)]
    latency += [part for one in bundles for part in ("--bundle", str(one))]
    for script in (latency, ["precision_attention.py", "--bundle", str(bundle)]):
        subprocess.run([sys.executable, f"benchmarks/{script[0]}", *script[1:], *rounds], check=True, cwd=ROOT)


if __name__ == "__main__":
    main()
