"""Regenerates every figure that the README shows, into benchmarks/results/.

    python benchmarks/run_all.py [--shared FOLDER] [--part NAME …]

Start-up, PCP and profiles need nothing but the checkout; the other parts need the data in FOLDER.
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
from collections.abc import Callable
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from poster_edge.config import DEFAULT_MODEL
from poster_edge.runtime.int8_sums import sums_int8_exactly

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PHOTO = ROOT / "poster_edge" / "zoo" / "samples" / "astronaut.jpg"
RUNS, COLD_RUNS = 7, 3


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


def forget_files() -> None:
    """Take the files of Python, its packages and this project out of the page cache, as after a start of the machine.

    A file that another process has mapped stays.
    """
    folders = {Path(sys.prefix) / "lib", Path(sys.base_prefix) / "lib", ROOT / "poster_edge", ROOT / "export"}
    for path in (p for folder in folders for p in folder.rglob("*") if p.is_file()):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(handle)


def timed(*command: str, cold: bool = False) -> dict[str, float]:
    """Wall time (s) and peak memory (MiB) of a whole process, over several runs; ``cold``: read from the disk."""
    walls = []
    for _ in range(COLD_RUNS if cold else RUNS):
        if cold:
            forget_files()
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
        "the same, files not in memory": timed("-m", "poster_edge", *photo, cold=True),
    }


def write(name: str, values: dict[str, Any]) -> None:
    """Write one result file."""
    path = RESULTS / name
    path.write_text(json.dumps({"environment": environment(), **values}, indent=1) + "\n")
    print(path.relative_to(ROOT))


def evaluation(shared: Path) -> None:
    """Accuracy and pictures of the default model on FER2013's validation split, as it runs."""
    data = str(shared / "data" / "fer2013_train_valid.npz")
    subprocess.run([sys.executable, "benchmarks/evaluation.py", "--data", data], check=True, cwd=ROOT)


def crops(shared: Path) -> None:
    """How FER2013's crops relate to detector boxes, and what framing and turning do to the accuracy."""
    data, yunet = shared / "data" / "fer2013_train_valid.npz", shared / "models" / "face_detection_yunet_2023mar.onnx"
    common = ["--data", str(data), "--yunet", str(yunet)]
    for script in (
        ["benchmarks/crop_framing.py", *common, "--media", str(shared / "media")],
        ["benchmarks/crop_accuracy.py", *common, "--model", DEFAULT_MODEL, "--count", "600"],
    ):
        subprocess.run([sys.executable, *script], check=True, cwd=ROOT)


def precisions(shared: Path) -> None:
    """Accuracy, calibration memory and FP16's range of the default model."""
    for script in ("precision_accuracy", "calibration_memory", "fp16_faces"):
        _script(script, "--data", str(shared / "data" / "fer2013_train_valid.npz"))


def latency(shared: Path) -> None:
    """Latency of poster-nano's precisions, with and without attention in INT8, then full POSTER's."""
    data = str(shared / "data" / "fer2013_train_valid.npz")
    weights = str(ROOT / "poster_edge" / "zoo" / "poster-nano" / "model.safetensors")
    with tempfile.TemporaryDirectory() as folder:
        export = [sys.executable, "-m", "poster_edge", "export", "--model", "poster-nano", "--int8", "--data", data]
        bundles = [f"{folder}/nano"]
        subprocess.run([*export, "--half", "-o", bundles[0]], check=True, cwd=ROOT)
        if not sums_int8_exactly():
            bundles.append(f"{folder}/nano-7-bit")
            subprocess.run([*export, "--weight-bits", "7", "-o", bundles[1]], check=True, cwd=ROOT)
        _script("precision_latency", *(x for b in bundles for x in ("--bundle", b)), "--checkpoint", weights)
        _script("precision_attention", "--bundle", bundles[0], "--data", data)
        if (shared / "golden").is_dir():
            _script("poster_precision", "--shared", str(shared), "--work", f"{folder}/poster")


def zoo(shared: Path) -> None:
    """Latency of every model beside eager PyTorch; runs/zoo/NAME.safetensors are weights that were trained here."""
    data, golden, trained = shared / "data" / "fer2013_train_valid.npz", shared / "golden", ROOT / "runs" / "zoo"
    folders = [
        x for name, path in (("--golden", golden), ("--trained", trained)) if path.is_dir() for x in (name, path)
    ]
    _script("zoo", "--data", str(data), *map(str, folders))


def peers(shared: Path) -> None:
    """Other packages beside the packaged models; installs them in an environment of their own."""
    _script("peers", "--data", str(shared / "data" / "fer2013_train_valid.npz"))


def video(shared: Path) -> None:
    """Following faces, averaging over time, the detector, overlapped frames: on clips and the validation faces."""
    clips = ("panzoom_640x480_25fps.mp4", "short_hamilton_clip_noaudio.mp4")
    given = [x for clip in clips for x in ("--clip", str(shared / "media" / clip))]
    _script("steady", "--data", str(shared / "data" / "fer2013_train_valid.npz"), *given)
    _script("overlap", "--clip", given[-1])
    _script("detector", *given)


def _script(name: str, *arguments: str) -> None:
    subprocess.run([sys.executable, f"benchmarks/{name}.py", *arguments], check=True, cwd=ROOT)


#: What can be made alone; the first of them take no data.
ALONE: dict[str, Callable[[], None]] = {
    "startup": lambda: write("startup.json", {"runs": RUNS, "cold_runs": COLD_RUNS, "commands": startup()}),
    "pcp": lambda: _script("pcp"),
    "profiles": lambda: _script("profiles"),
}
WITH_DATA: dict[str, Callable[[Path], None]] = {
    "evaluation": evaluation,
    "crops": crops,
    "precisions": precisions,
    "latency": latency,
    "zoo": zoo,
    "peers": peers,
    "video": video,
}


def main() -> None:
    """Run everything that can be run here, or the parts that are named, and write the README's tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shared", type=Path, help="folder with data/fer2013_train_valid.npz")
    parser.add_argument("--part", action="append", choices=[*ALONE, *WITH_DATA], help="[default: all]")
    args = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    if args.shared is None and set(args.part or ()) & set(WITH_DATA):
        parser.error("these parts need --shared FOLDER")
    for name, part in ALONE.items():
        if not args.part or name in args.part:
            part()
    for name, with_data in WITH_DATA.items():
        if args.shared is not None and (not args.part or name in args.part):
            with_data(args.shared.resolve())
    _script("readme")


if __name__ == "__main__":
    main()
