"""Training on a GPU, the ``train`` job of ``gpu.py``: teachers first, then what learns from them, side by side.

Each step is one ``poster-edge train``; its folder under ``runs/gpu`` outlives a call, so that the next call goes on
where this one stopped.  ``OUT`` gets the weights of the small models, the records of all steps in one archive, and
the state of a small model that was cut short.  The validation split selects; no other split is in the data.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpu_common import ROOT, Row

#: Files of at most so many bytes leave the machine.
_KEEP_BYTES = 15 << 20
_RECORDS = ("config.json", "metrics.csv", "landmarks.csv", "summary.json")
_STRONG = ("--augmentation", "strong")


@dataclass(frozen=True)
class Step:
    """One training run.

    Attributes:
        name: of its folder.
        model: configuration.
        lane: steps of one lane run one after another, lanes side by side.
        options: further options of ``poster-edge train``.
        epochs: of expression training; 0: as many as fit until ``until``.
        teachers: names of the steps that must be done before, whose networks teach this one.
        landmarks: epochs of landmark pre-training; 0: the network has no landmark stream or begins with a trained one.
        until: share of the call's time after which it ends, whatever it has reached; others learn from that.
        by_name: run only when it is named, not with the whole plan, which fits into one call.
    """

    name: str
    model: str
    lane: str
    options: tuple[str, ...]
    epochs: int = 0
    teachers: tuple[str, ...] = ()
    landmarks: int = 0
    until: float = 1.0
    by_name: bool = False


_USUAL = ("--batch", "256", "--warmup", "4", "--ema-decay", "0.999", *_STRONG)
_TEACHERS = ("cf-dan-48-trunk-0", "cf-dan-48-trunk-1")


def teachers() -> list[Step]:
    """The same network twice, from scratch, half by the labels and half by the packaged poster-mini.

    Of those that were tried it learns most in little time: 68.35 % in 49 epochs by the labels alone, 69.2 and 69.7 %
    in 75 and 76 with half by the poster-mini that was packaged then (68.2 %).
    """
    options = ("--recipe", "cf-dan-48-trunk", "--teacher", str(_packaged("poster-mini")))
    return [
        Step(name, "cf-dan-48-trunk", name, (*options, "--seed", str(seed)), until=0.45)
        for seed, name in enumerate(_TEACHERS)
    ]


def students() -> list[Step]:
    """A packaged model goes on, with what the teachers say of each mixed picture."""
    mini = ("--recipe", "poster-mini", "--init", str(_packaged("poster-mini")))
    nano = ("--recipe", "poster-mini", "--init", str(_packaged("poster-nano")))
    return [
        Step("poster-mini", "poster-mini", "students", mini, teachers=_TEACHERS),
        Step("poster-nano", "poster-nano", "students", nano, teachers=(*_TEACHERS, "poster-mini"), by_name=True),
    ]


def full_size() -> Step:
    """The full POSTER at 224 pixels from scratch: its figures are wanted, its weights are too large to keep.

    On an H200 that it has to itself an epoch takes 14.9 s.  Its landmark pre-training became NaN in the first epoch,
    three times, at lr 4e-3 and 1e-3, with and without CUDA graphs, always beside others on 30 to 40 % of the
    multiprocessors; alone it does not.
    """
    return Step("poster", "poster", "poster", ("--recipe", "poster-scratch"), landmarks=4, by_name=True)


def others(of: Callable[[int], int]) -> list[Step]:
    """Those that are run by name: from scratch, the other small networks, poster-nano with SAM."""
    plain = ("--batch", "128", "--warmup", "2", "--lr", "1e-3", "--optimizer", "adamw", "--schedule", "cosine")
    plain += ("--ema-decay", "0.999", "--weight-decay", "0.05", "--label-smoothing", "0.1", *_STRONG)
    alone = (*_USUAL, "--lr", "3e-3", "--mixup", "0.2")
    sharp = (*alone, "--init", str(_packaged("poster-nano")), "--sam-rho", "0.05")
    return [
        Step("poster-48", "poster-48", "large", (*_USUAL, "--mixup", "0.2", "--lr", "2e-3"), landmarks=8, by_name=True),
        Step("poster-mini-alone", "poster-mini", "mini", alone, of(60), landmarks=8, by_name=True),
        Step("poster-micro", "poster-micro", "micro", alone, of(200), landmarks=8, by_name=True),
        Step("cf-dan-nano", "cf-dan-nano", "others", plain, of(40), by_name=True),
        Step("fer-vt-nano", "fer-vt-nano", "others", plain, of(40), by_name=True),
        Step("poster-nano-sam", "poster-nano", "sam", sharp, of(120), by_name=True),
    ]


def plan(scale: float) -> list[Step]:
    """Every step, epochs times ``scale`` where their number is given.

    On an H200 an epoch of 28,358 faces took 1.2 s (cf-dan-48-trunk alone; two side by side, each with poster-mini as
    its teacher, 2.5 s), 1.1 s (poster-nano without a teacher, cf-dan-nano, fer-vt-nano) and 1.7 s (poster-mini with
    two teachers).  The POSTER family is bound by the number of its kernels: beside networks of large ones its epochs
    took 4 to 5 s.
    """

    def of(epochs: int) -> int:
        return max(2, round(epochs * scale))

    return [*teachers(), *students(), full_size(), *others(of)]


def train(*, cpu: bool, out: Path, data: Path, seconds: float, scale: float, only: str | None) -> list[Row]:
    """Run the plan, or those of its steps that ``only`` names, for at most ``seconds``; returns a row a step.

    Raises:
        SystemExit: a name of ``only`` is no step's.
    """
    began = time.monotonic()
    names = only.split(",") if only else []
    known = plan(0.0 if cpu else scale)
    steps = [s for s in known if (s.name in names if names else not s.by_name)]
    if strangers := set(names) - {s.name for s in known}:
        sys.exit(f"--model {', '.join(sorted(strangers))}: expected some of {', '.join(s.name for s in known)}")
    runs = ROOT / "runs" / ("gpu-toy" if cpu else "gpu")
    if cpu:
        shutil.rmtree(runs, ignore_errors=True)
        data = toy_data(out)
    rows: dict[str, Row] = {}
    events = {s.name: threading.Event() for s in steps}

    def go(lane: str) -> None:
        for step in (s for s in steps if s.lane == lane):
            for needed in set(step.teachers) & set(events):
                events[needed].wait()
            try:
                rows[step.name] = _run(step, runs, data, out, cpu=cpu, deadline=began + step.until * seconds)
            finally:
                events[step.name].set()

    lanes = [threading.Thread(target=go, args=(lane,)) for lane in dict.fromkeys(s.lane for s in steps)]
    for thread in lanes:
        thread.start()
    for thread in lanes:
        thread.join()
    _keep(runs, out)
    return [rows[s.name] for s in steps]


def _run(step: Step, runs: Path, data: Path, out: Path, *, cpu: bool, deadline: float) -> Row:
    folder, row = runs / step.name, {"what": step.name, "epochs": step.epochs or "as fit"}
    if not (folder / "summary.json").exists():
        # What was cut short teaches what it has learned.
        missing = [n for n in step.teachers if not _weights(runs, n).exists()]
        left = deadline - time.monotonic()
        if missing or left < 15:
            return {**row, "note": f"not begun: {', '.join(missing) + ' not trained' if missing else 'no time left'}"}
        command = _command(step, runs, data, cpu=cpu, minutes=(left - 12) / 60)
        # The fused kernels have no backward pass, and what they are is not in question here.
        env = {**os.environ, "POSTER_EDGE_KERNELS": "sdpa"}
        if cpu:
            # Side by side, threads of several processes would wait for each other's cores.
            env["OMP_NUM_THREADS"] = "1"
        with (out / f"{step.name}.log").open("a") as log:
            code = subprocess.run(command, cwd=ROOT, env=env, stderr=log, stdout=log).returncode
        if code:
            lines = (out / f"{step.name}.log").read_text().splitlines()
            return {**row, "ok": False, "note": f"exit {code}: {lines[-1] if lines else ''}"}
    return {**row, **_result(folder)}


def _command(step: Step, runs: Path, data: Path, *, cpu: bool, minutes: float) -> list[str]:
    folder = runs / step.name
    command = [sys.executable, "-m", "poster_edge", "train", "--model", step.model, "-o", str(folder)]
    command += ["--data", str(data / "fer2013_train_valid.npz"), *step.options]
    if step.epochs or cpu:
        command += ["--epochs", str(step.epochs or 2)]
    else:
        # The rest is for slower epochs and for the end.
        command += ["--within", f"{0.97 * minutes:.3f}"]
    if step.landmarks:
        command += ["--landmarks", str(data / "fer2013_mesh_train_valid.npz")]
        command += ["--landmark-epochs", str(1 if cpu else step.landmarks)]
    for name in step.teachers:
        command += ["--teacher", str(_weights(runs, name))]
    if cpu:
        command += ["--device", "cpu", "--batch", "8"]
    else:
        command += ["--device", "cuda:0", "--stop-after", f"{minutes:.3f}"]
    return command + (["--resume"] if (folder / "config.json").exists() else [])


def _packaged(name: str) -> Path:
    """Weights of a packaged model."""
    return ROOT / "poster_edge" / "zoo" / name / "model.safetensors"


def _weights(runs: Path, name: str) -> Path:
    """Of a step's best epoch so far."""
    return runs / name / "best.safetensors"


def _result(folder: Path) -> dict[str, Any]:
    """Last line and best accuracy of a run's metrics."""
    import csv

    rows = list(csv.DictReader((folder / "metrics.csv").open())) if (folder / "metrics.csv").exists() else []
    if not rows:
        return {"note": "no epoch finished"}
    last = rows[-1]
    return {
        "done": int(last["epoch"]),
        "s/epoch": sum(float(r["seconds"]) for r in rows[1:] or rows) / len(rows[1:] or rows),
        "train_loss": float(last["train_loss"]),
        "accuracy": float(last["accuracy"]),
        "best": max(float(r["accuracy"]) for r in rows),
        "nll": float(last["nll"]),
        "note": "" if (folder / "summary.json").exists() else "unfinished",
    }


def _keep(runs: Path, out: Path) -> None:
    """Records of all steps in one archive; weights and unfinished states that are small enough."""
    with tarfile.open(out / "gpu_train_records.tar.gz", "w:gz") as archive:
        for path in sorted(p for name in _RECORDS for p in runs.glob(f"*/{name}")):
            archive.add(path, path.relative_to(runs))
        for log in sorted(out.glob("*.log")):
            archive.add(log, f"logs/{log.name}")
            log.unlink()
    for folder in sorted(p for p in runs.iterdir() if p.is_dir()):
        best = folder / "best.safetensors"
        if best.exists() and best.stat().st_size < _KEEP_BYTES:
            shutil.copyfile(best, out / f"{folder.name}.safetensors")


def toy_data(out: Path) -> Path:
    """A few noise pictures with points, to prove that the target works without the data."""
    import numpy as np

    from poster_edge.labels import LABEL_SETS

    rng, count, folder = np.random.default_rng(0), 70, out / "toy"
    folder.mkdir(parents=True, exist_ok=True)
    classes = np.array(sorted(LABEL_SETS["fer2013"].classes))
    images, labels = rng.integers(0, 255, (count, 48, 48), dtype=np.uint8), np.arange(count) % len(classes)
    np.savez(folder / "fer2013_train_valid.npz", images=images, labels=labels, classes=classes)
    np.savez(
        folder / "fer2013_mesh_train_valid.npz",
        landmarks=rng.uniform(0.2, 0.8, (count, 68, 2)).astype(np.float16),
        presence=np.ones(count, np.float16),
        self_incons=np.zeros(count, np.float16),
        labels=labels.astype(np.uint8),
    )
    return folder


def start_sharing() -> Callable[[], None]:
    """Let processes share the GPU's multiprocessors (CUDA MPS) where its server starts; returns what ends that.

    Without it they take turns, which is slower and gives the same results.
    """
    if "CUDA_MPS_PIPE_DIRECTORY" in os.environ:
        return lambda: None
    control = shutil.which("nvidia-cuda-mps-control")
    if control is None:
        print("no CUDA MPS here: processes take turns on the GPU")
        return lambda: None
    folder = Path("/tmp") / f"mps-{os.getpid()}"
    folder.mkdir(exist_ok=True)
    own = {"CUDA_MPS_PIPE_DIRECTORY": str(folder), "CUDA_MPS_LOG_DIRECTORY": str(folder)}
    env = {**os.environ, **own}

    def stop() -> None:
        subprocess.run([control], input="quit\n", text=True, env=env, timeout=20, capture_output=True, check=False)

    try:
        subprocess.run([control, "-d"], env=env, timeout=10, check=True, capture_output=True)
        probe = "import torch; print(float(torch.ones(4, device='cuda').sum()))"
        subprocess.run([sys.executable, "-c", probe], env=env, timeout=40, check=True, capture_output=True)
    except (OSError, subprocess.SubprocessError) as error:
        print(f"CUDA MPS does not serve here ({type(error).__name__}): processes take turns on the GPU")
        stop()
        return lambda: None
    os.environ.update(own)
    print("CUDA MPS: processes share the GPU")
    return stop
