"""What each ingredient of poster-nano's training is worth: one change at a time, from the same start, on the same data.

python benchmarks/ingredients.py --data fer2013.npz --landmarks mesh.npz                              all of it: long
python benchmarks/ingredients.py --data fer2013.npz --landmarks mesh.npz --images 6000 --epochs 8     a smaller study
python benchmarks/ingredients.py --list

The same command goes on where it stopped (--minutes M stops at an epoch's end); what is done is not done again.
Runs are ``poster-edge train`` in runs/ingredients; the record is written after every run, and
``python benchmarks/readme.py`` puts it into docs/training.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from run_all import RESULTS, ROOT, environment
from subset import write_subset

RECORD = "ingredients.json"
MODEL = "poster-nano"
PACKAGED = ROOT / "poster_edge" / "zoo" / MODEL / "model.safetensors"
_SHARED = "landmarks.safetensors"


@dataclass(frozen=True)
class Ingredient:
    """One run of the study.

    Attributes:
        name: of its folder.
        label: what the table calls it.
        options: of ``poster-edge train``, in place of the baseline's.
        landmarks: whether the landmark stream is pre-trained.
        taught: whether teachers are asked.
        times: epochs, in units of the baseline's.
    """

    name: str
    label: str
    options: tuple[str, ...] = ()
    landmarks: bool = True
    taught: bool = False
    times: int = 1


#: The most telling first: a study that is cut short has them.
INGREDIENTS = (
    Ingredient("baseline", "baseline: the recipe `poster-nano`"),
    Ingredient("no-augmentation", "without augmentation", ("--augmentation", "none")),
    Ingredient("teacher", "distillation, the teacher's share 0.8", ("--teacher-weight", "0.8"), taught=True),
    Ingredient("no-landmarks", "landmark stream not pre-trained", landmarks=False),
    Ingredient("strong", "strong augmentation", ("--augmentation", "strong")),
    Ingredient("no-ema", "without averaged weights", ("--ema-decay", "0")),
    Ingredient("mixup", "mixup 0.2", ("--mixup", "0.2")),
    Ingredient("cutmix", "CutMix 1.0", ("--cutmix", "1")),
    Ingredient("no-smoothing", "without label smoothing", ("--label-smoothing", "0")),
    Ingredient("balanced", "balanced sampling", ("--sampling", "balanced")),
    Ingredient("sam", "SAM, rho 0.05 (twice the time)", ("--sam-rho", "0.05")),
    Ingredient("longer", "twice the epochs", times=2),
    Ingredient(
        "together",
        "strong augmentation, mixup 0.2 and distillation",
        ("--augmentation", "strong", "--mixup", "0.2", "--teacher-weight", "0.8"),
        taught=True,
    ),
)


def training_environment() -> dict[str, Any]:
    """Machine, versions, commit and date, torch among them."""
    return {**environment(), "torch": metadata.version("torch")}


def fast_precision() -> str:
    """What trains fastest here: "bf16" on a GPU and on a CPU with AMX, else "fp32"."""
    import torch

    flags = Path("/proc/cpuinfo")
    amx = flags.is_file() and " amx_bf16 " in flags.read_text()
    return "bf16" if torch.cuda.is_available() or amx else "fp32"


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """What all runs of a study share."""
    return {
        "model": MODEL,
        "data": args.data.name,
        "images": args.images or "all",
        "validation_images": args.validation_images or "all",
        "epochs": args.epochs,
        "landmark_epochs": args.landmark_epochs,
        "precision": args.precision,
        "teachers": [{"name": _name(t), "sha256": hashlib.sha256(t.read_bytes()).hexdigest()} for t in args.teacher],
    }


def _name(path: Path) -> str:
    """A file's path in the project, or its name alone."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name


def command(item: Ingredient, folder: Path, seed: int, files: tuple[Path, Path], args: argparse.Namespace) -> list[str]:
    """The ``poster-edge train`` of one run."""
    line = [sys.executable, "-m", "poster_edge", "train", "--model", MODEL, "-o", str(folder), "--data", str(files[0])]
    line += ["--epochs", str(args.epochs * item.times), "--seed", str(seed), "--device", args.device]
    line += ["--precision", args.precision, *item.options]
    if item.landmarks:
        line += ["--landmarks", str(files[1]), "--landmark-epochs", str(args.landmark_epochs)]
    for teacher in args.teacher if item.taught else ():
        line += ["--teacher", str(teacher)]
    return line


def train(item: Ingredient, seed: int, work: Path, files: tuple[Path, Path], args: argparse.Namespace) -> Path | None:
    """Run one training to its end, or as far as the time reaches: None."""
    folder, shared = work / f"{item.name}-{seed}", work / f"seed-{seed}-{_SHARED}"
    if (folder / "summary.json").is_file():
        return folder
    line = command(item, folder, seed, files, args)
    if (folder / "config.json").is_file():
        line += ["--resume"]
    elif item.landmarks and shared.is_file():
        # The landmark stream is the same in all runs of a seed.
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(shared, folder / _SHARED)
    if args.deadline is not None:
        line += ["--stop-after", f"{max(0.0, args.deadline - time.monotonic()) / 60:.3f}"]
    env = {**os.environ, **({"OMP_NUM_THREADS": str(args.threads)} if args.threads else {})}
    print(f"{item.label} (seed {seed})", flush=True)
    subprocess.run(line, cwd=ROOT, env=env, check=True)
    if item.landmarks and not shared.is_file():
        shutil.copyfile(folder / _SHARED, shared)
    return folder if (folder / "summary.json").is_file() else None


def right_of(folder: Path, data: Path) -> NDArray[np.bool_]:
    """Whether each validation face is told rightly by the best epoch's weights, (N,); kept beside them."""
    kept = folder / "right.npy"
    if kept.is_file():
        return np.asarray(np.load(kept), bool)
    import torch

    from poster_edge.data.faces import load_faces
    from poster_edge.data.preprocess import to_input
    from poster_edge.models.checkpoint import load_model

    network, info = load_model(folder / "best.safetensors")
    faces = load_faces(data)
    rows = faces.indices("validation")
    found = []
    with torch.inference_mode():
        for start in range(0, len(rows), 256):
            crops = [faces.read(int(i)) for i in rows[start : start + 256]]
            found.append(network(torch.from_numpy(to_input(crops, info.preprocess))).argmax(dim=1).numpy())
    right = np.asarray(np.concatenate(found) == faces.labels[rows], bool)
    np.save(kept, right)
    return right


def row_of(item: Ingredient, seed: int, folder: Path, data: Path, base: NDArray[np.bool_]) -> dict[str, Any]:
    """What the record says of one run; ``base``: the faces that the baseline of that seed tells rightly."""
    summary = json.loads((folder / "summary.json").read_text())
    lines = (folder / "metrics.csv").read_text().splitlines()
    epochs = [dict(zip(lines[0].split(","), map(float, line.split(",")), strict=True)) for line in lines[1:]]
    right, whole = right_of(folder, data), summary["validation"]
    change = right.astype(float) - base
    return {
        "ingredient": item.name,
        "label": item.label,
        "options": " ".join(item.options),
        "seed": seed,
        "epochs": len(epochs),
        "train_images": summary["train_images"],
        "faces": whole["count"],
        "accuracy": float(right.mean()),
        "accuracy_ci95": interval(right.astype(float)),
        "change": float(change.mean()),
        "change_ci95": interval(change),
        "mean_class_accuracy": whole["mean_class_accuracy"],
        "accuracy_without_twins": summary["validation_without_twins"]["accuracy"],
        "nll": whole["nll"],
        "best_epoch": summary["epoch"],
        "last_epoch_accuracy": epochs[-1]["accuracy"],
        "landmark_error": summary["landmark_error_over_face_size"].get("mean"),
        "seconds_per_epoch": round(sum(e["seconds"] for e in epochs) / len(epochs), 2),
    }


def interval(values: NDArray[np.float64]) -> float:
    """Half the width of the 95 % interval of a mean over faces (normal approximation)."""
    return float(1.96 * values.std() / np.sqrt(len(values)))


def study(args: argparse.Namespace) -> None:
    """All runs that are asked for, the record after each."""
    shared = settings_of(args)
    check_record(args.out, shared)
    # Whatever is not the same for all runs of a study has a folder of its own.
    key = hashlib.sha256(json.dumps(shared).encode()).hexdigest()[:8]
    work = args.work / f"{shared['images']}x{args.epochs}-{key}"
    files = args.data, args.landmarks
    if args.images:
        files = write_subset(args.data, args.landmarks, work, args.images, args.validation_images)
    wanted = [i for i in INGREDIENTS if not args.only or i.name in args.only or i.name == "baseline"]
    rows: list[dict[str, Any]] = []
    for seed in range(args.seeds):
        base = None
        for item in wanted:
            folder = train(item, seed, work, files, args)
            if folder is None:
                print("stopped for want of time; the same command goes on")
                return
            base = right_of(folder, files[0]) if base is None else base
            rows.append(row_of(item, seed, folder, files[0], base))
            about = {"environment": training_environment(), **shared, "threads": args.threads, "runs": rows}
            args.out.write_text(json.dumps(about, indent=1) + "\n")
            print(f"  {rows[-1]['accuracy']:.2%}, change {rows[-1]['change']:+.2%} ± {rows[-1]['change_ci95']:.2%}")


def check_record(path: Path, shared: dict[str, Any]) -> None:
    """Refuse to overwrite the record of another study, before anything is trained."""
    if not path.is_file():
        return
    old = json.loads(path.read_text())
    differ = [f"{k} {old.get(k)}, now {v}" for k, v in shared.items() if old.get(k) != v]
    if differ:
        sys.exit(
            f"{path.name} is the record of another study ({'; '.join(differ)}): pass --out FILE, or remove it first"
        )


def study_options(parser: argparse.ArgumentParser, *, name: str, record: str) -> None:
    """Options of every study that trains poster-nano several times."""
    parser.add_argument("--data", type=Path, help="FER2013 as .npz, with its splits")
    parser.add_argument("--landmarks", type=Path, help=".npz of 68 points per row")
    parser.add_argument("--images", type=int, help="training images to draw [default: all]")
    parser.add_argument("--validation-images", type=int, help="validation images to draw, with --images [default: all]")
    parser.add_argument("--epochs", type=int, default=40, help="of every run (%(default)s)")
    parser.add_argument("--landmark-epochs", type=int, default=8, help="of pre-training (%(default)s)")
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--precision", choices=["auto", "fp32", "bf16"], default="auto", help="auto: bf16 where it is fast"
    )
    parser.add_argument("--threads", type=int, help="of a training on a CPU [default: torch's choice]")
    parser.add_argument("--minutes", type=float, help="stop at an epoch's end; the same command goes on")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / name, help="folder of the trainings")
    parser.add_argument("--out", type=Path, default=RESULTS / record, help="the record")


def settle(args: argparse.Namespace) -> None:
    """Make what :func:`study_options` took definite: whole paths, a precision, a deadline."""
    if args.data is None or args.landmarks is None:
        sys.exit("--data and --landmarks are needed to train")
    args.data, args.landmarks = args.data.resolve(), args.landmarks.resolve()
    args.precision = fast_precision() if args.precision == "auto" else args.precision
    args.deadline = None if args.minutes is None else time.monotonic() + 60 * args.minutes


def arguments() -> argparse.Namespace:
    """The command line's options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    study_options(parser, name="ingredients", record=RECORD)
    parser.add_argument("--seeds", type=int, default=1, help="runs of each ingredient (%(default)s)")
    parser.add_argument(
        "--teacher", type=Path, action="append", help="may be repeated [default: the packaged poster-nano]"
    )
    parser.add_argument("--only", type=lambda text: text.split(","), help="names of --list, separated by commas")
    parser.add_argument("--list", action="store_true", help="show the ingredients and end")
    return parser.parse_args()


def main() -> None:
    """Train what is asked for."""
    args = arguments()
    if args.list:
        print("\n".join(f"{i.name:16} {i.label}" for i in INGREDIENTS))
        return
    known = [i.name for i in INGREDIENTS]
    if unknown := [n for n in args.only or [] if n not in known]:
        sys.exit(f"--only {','.join(unknown)}: expected some of {', '.join(known)}")
    settle(args)
    args.teacher = [t.resolve() for t in args.teacher or [PACKAGED]]
    study(args)


if __name__ == "__main__":
    main()
