"""Every model of the zoo: eager PyTorch, torch.compile, onnxruntime and OpenVINO in FP32, FP16 and INT8, in turns.

    python benchmarks/zoo.py --data FILE.npz [--golden FOLDER] [--trained FOLDER] [--model NAME …] [--work FOLDER]
        [--prepare]

Bundles are made in --work, where they stay until they are deleted: the packaged models; those of which --trained has
a NAME.safetensors; POSTER with stand-in weights in the published layout (from --golden's official_weights.py; they
rank speed and agreement, not accuracy); the others with random weights, which have a speed and nothing else.  Then
``poster-edge bench`` writes ``bench_NAME.csv``.  --prepare stops before it.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from run_all import RESULTS, ROOT

from poster_edge.errors import UnavailableError
from poster_edge.runtime.bundle import load_bundle, zoo_names

#: Model -> size that official_weights.py knows it by, "" for random weights; those that are packaged have their own.
ZOO = {
    "poster-nano": "",
    "poster-micro": "",
    "poster-mini": "",
    "fer-vt-nano": "",
    "cf-dan-nano": "",
    "poster-t": "small",
    "poster-s": "base",
    "poster": "large",
    "fer-vt": "",
    "cf-dan": "",
}
RUNTIMES = "torch,torch-compile,onnxruntime,openvino"


def run(*arguments: str, accept: tuple[int, ...] = (0,)) -> None:
    """Run a command of poster-edge, loudly."""
    print("poster-edge", *arguments, flush=True)
    done = subprocess.run([sys.executable, "-m", "poster_edge", *arguments], check=False, cwd=ROOT)
    if done.returncode not in accept:
        raise SystemExit(f"exit code {done.returncode}")


def stand_in(golden: Path, size: str, path: Path) -> None:
    """Write a stand-in state dict as the authors publish theirs."""
    spec = importlib.util.spec_from_file_location("official_weights", golden / "official_weights.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    state = {f"module.{k}": torch.from_numpy(v) for k, v in module.state_dict(size).items()}
    torch.save({"model_state_dict": state}, path)


def trained_weights(name: str, folder: Path | None) -> Path | None:
    """The trained checkpoint of a model, where there is one."""
    if name in zoo_names():
        return ROOT / "poster_edge" / "zoo" / name / "model.safetensors"
    path = folder / f"{name}.safetensors" if folder else None
    return path if path and path.is_file() else None


def untrained_weights(name: str, size: str, work: Path, golden: Path | None) -> Path:
    """A checkpoint that is made here: stand-in weights of a published layout, or random ones."""
    path = work / f"{name}.safetensors"
    if path.is_file():
        return path
    if size:
        if golden is None:
            raise SystemExit(f"{name} needs --golden FOLDER with official_weights.py")
        stand_in(golden, size, work / f"{name}.pth")
        run("convert", "--checkpoint", str(work / f"{name}.pth"), "--dataset", "rafdb", "-o", str(path))
        (work / f"{name}.pth").unlink()
        return path
    from poster_edge.config import Preprocess
    from poster_edge.labels import label_set
    from poster_edge.models.build import build_network
    from poster_edge.models.checkpoint import ModelInfo, save_checkpoint
    from poster_edge.models.config import model_config

    torch.manual_seed(0)
    labels = label_set("fer2013")
    config = model_config(name, num_classes=len(labels.classes))
    network = build_network(config).eval()
    preprocess = Preprocess(size=config.input_size, colour=labels.colour)
    info = ModelInfo(name, labels.classes, preprocess, "fer2013", source="random weights")
    save_checkpoint(path, network.state_dict(), info)
    return path


def prepare(name: str, checkpoint: Path, work: Path, data: Path, *, trained: bool) -> Path:
    """The bundle with FP32, FP16 and INT8 models; made again when the packaged model is another one."""
    folder = work / (f"{name}-trained" if trained else name)
    packaged = name in zoo_names()
    if packaged and folder.is_dir():
        old, new = load_bundle(folder), load_bundle(name)
        if old.manifest.artefacts["model.onnx"].sha256 == new.manifest.artefacts["model.onnx"].sha256:
            return folder
    elif folder.is_dir():
        return folder
    model = name
    if not packaged:
        model = str(work / f"{folder.name}-fp32")
        if not Path(model).is_dir():
            run("export", "--checkpoint", str(checkpoint), "-o", model)
    # Speed does not ask how well the ranges fit; without training there is nothing for a gate to hold.
    quality = ["--calib-images", "512"] if trained else ["--calib-images", "16", "--no-gate"]
    lower = ["--int8", "--half", "--calib", str(data), "--force"]
    run("export", "--model", model, *lower, *quality, "-o", str(folder))
    return folder


def main() -> None:
    """Prepare what is not there yet, then measure one model after the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--golden", type=Path, help="folder with official_weights.py; POSTER is left out without it")
    parser.add_argument("--trained", type=Path, help="folder with NAME.safetensors of models that were trained")
    parser.add_argument("--model", choices=list(ZOO), action="append", help="[default: all]")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "poster-edge-zoo")
    parser.add_argument("--duration", default="10", help="seconds of timed calls of each candidate")
    parser.add_argument("--prepare", action="store_true", help="make the bundles and stop")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    data = args.data.resolve()
    for name in args.model or [n for n, size in ZOO.items() if not size or args.golden]:
        trained = trained_weights(name, args.trained)
        checkpoint = trained or untrained_weights(name, ZOO[name], args.work, args.golden)
        bundle = prepare(name, checkpoint, args.work, data, trained=trained is not None)
        if args.prepare:
            continue
        # Faces enough for what is asked: all for an accuracy, few where only agreement means something.
        faces = [] if trained else ["--faces", "256" if "nano" in name else "96"]
        bench = ["bench", "--model", str(bundle), "--checkpoint", str(checkpoint), "--runtime", RUNTIMES]
        bench += ["--duration", args.duration, "--data", str(data), *faces, "--threads", "2"]
        csv = str(RESULTS / f"bench_{name}.csv")
        plot = ["--plot", str(RESULTS / f"bench_{name}.png")] if name in zoo_names() else []
        run(*bench, "--csv", csv, *plot, accept=(0, 1))


if __name__ == "__main__":
    try:
        main()
    except UnavailableError as error:
        raise SystemExit(str(error)) from error
