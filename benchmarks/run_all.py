"""Regenerates every figure that the README shows, into benchmarks/results/.

    python benchmarks/run_all.py [--shared FOLDER]

Start-up and PCP need nothing but the checkout; accuracy and crop framing need the data in FOLDER.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from poster_edge.runtime.int8_sums import sums_int8_exactly

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PHOTO = ROOT / "poster_edge" / "zoo" / "samples" / "astronaut.jpg"
RUNS = 7


def cpu_name() -> str:
    """Name of the processor as the kernel gives it."""
    info = Path("/proc/cpuinfo")
    names = [x for x in info.read_text().splitlines() if x.startswith("model name")] if info.is_file() else []
    return names[0].partition(":")[2].strip() if names else platform.processor()


def environment() -> dict[str, Any]:
    """Machine, versions, commit and date of a record."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=ROOT, check=False)
    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        **{n: metadata.version(n) for n in ("onnxruntime", "numpy", "opencv-python-headless")},
        "commit": commit.stdout.strip() or "unknown",
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
    }


def timed(*command: str) -> dict[str, float]:
    """Wall time (s) and peak memory (MiB) of a whole process, over several runs."""
    walls = []
    for _ in range(RUNS):
        began = time.perf_counter()
        subprocess.run([sys.executable, *command], check=True, capture_output=True, cwd=ROOT)
        walls.append(time.perf_counter() - began)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return {"min_s": min(walls), "median_s": statistics.median(walls), "max_s": max(walls), "peak_rss_mib_so_far": peak}


def startup() -> dict[str, Any]:
    """Start-up of the command line and of one whole ``run``, beside a bare interpreter's."""
    # As after "pip install poster-edge", even where the development extras brought OpenVINO.
    photo = ("run", "--source", str(PHOTO), "--runtime", "onnxruntime")
    return {
        "python -c pass": timed("-c", "pass"),
        "import poster_edge": timed("-c", "import poster_edge"),
        "poster-edge --help": timed("-m", "poster_edge", "--help"),
        "poster-edge run --source PHOTO (1 face)": timed("-m", "poster_edge", *photo),
    }


def write(name: str, values: dict[str, Any]) -> None:
    """Write one result file."""
    path = RESULTS / name
    path.write_text(json.dumps({"environment": environment(), **values}, indent=1) + "\n")
    print(path.relative_to(ROOT))


def evaluation(shared: Path) -> None:
    """Accuracy of the packaged model on FER2013's validation split, as it runs."""
    data = shared / "data" / "fer2013_train_valid.npz"
    report = RESULTS / "eval_poster-nano_fer2013.json"
    picture = RESULTS / "confusion_poster-nano_fer2013.png"
    command = [sys.executable, "-m", "poster_edge", "eval", "--runtime", "onnxruntime", "--data", str(data)]
    subprocess.run([*command, "--json", str(report), "--plot", str(picture)], check=True, cwd=ROOT)
    values = json.loads(report.read_text())
    write(report.name, {**values, "data": data.name, "bundle": values["model"]})


def crops(shared: Path) -> None:
    """How FER2013's crops relate to detector boxes, and what framing and turning do to the accuracy."""
    data, yunet = shared / "data" / "fer2013_train_valid.npz", shared / "models" / "face_detection_yunet_2023mar.onnx"
    common = ["--data", str(data), "--yunet", str(yunet)]
    for script in (
        ["benchmarks/crop_framing.py", *common, "--media", str(shared / "media")],
        ["benchmarks/crop_accuracy.py", *common, "--model", "poster-nano", "--count", "600"],
    ):
        subprocess.run([sys.executable, *script], check=True, cwd=ROOT)


def precisions(shared: Path) -> None:
    """Accuracy, calibration memory and latency of the lower precisions of the packaged model."""
    data = str(shared / "data" / "fer2013_train_valid.npz")
    for script in ("precision_accuracy", "calibration_memory"):
        subprocess.run([sys.executable, f"benchmarks/{script}.py", "--data", data], check=True, cwd=ROOT)
    with tempfile.TemporaryDirectory() as folder:
        bundle = f"{folder}/nano"
        export = [sys.executable, "-m", "poster_edge", "export", "--int8", "--data", data]
        subprocess.run([*export, "--half", "-o", bundle], check=True, cwd=ROOT)
        bundles = ["--bundle", bundle]
        if not sums_int8_exactly():
            subprocess.run([*export, "--weight-bits", "7", "-o", f"{bundle}-7-bit"], check=True, cwd=ROOT)
            bundles += ["--bundle", f"{bundle}-7-bit"]
        weights = str(ROOT / "poster_edge" / "zoo" / "poster-nano" / "model.safetensors")
        timing = [sys.executable, "benchmarks/precision_latency.py", *bundles, "--checkpoint", weights]
        subprocess.run(timing, check=True, cwd=ROOT)


def main() -> None:
    """Run everything that can be run here."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shared", type=Path, help="folder with data/fer2013_train_valid.npz")
    args = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    write("startup.json", {"runs": RUNS, "commands": startup()})
    subprocess.run([sys.executable, "benchmarks/pcp.py"], check=True, cwd=ROOT)
    if args.shared is not None:
        shared = args.shared.resolve()
        evaluation(shared)
        crops(shared)
        precisions(shared)
    subprocess.run([sys.executable, "benchmarks/readme.py"], check=True, cwd=ROOT)


if __name__ == "__main__":
    main()
